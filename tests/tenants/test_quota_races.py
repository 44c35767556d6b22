"""Several at once cannot pass a hard limit together. Needs a database with row locks or with one writer."""

from __future__ import annotations

import threading

import pytest
from django.db import connection

from agents.models import Server
from agents.services import add_server
from common.errors import QuotaError
from tenants.models import Quota
from tests.factories import make_node, make_tenant, make_vault

AT_ONCE = 8
HARD = 3


@pytest.mark.django_db(transaction=True)
def test_eight_at_once_get_three_servers() -> None:
    tenant = make_tenant()
    node = make_node(tenant)
    # It is there already: nothing but the quota stands between the threads.
    make_vault(tenant)
    Quota.objects.create(tenant=tenant, kind="servers", hard=HARD)
    start = threading.Barrier(AT_ONCE)
    outcomes: list[str] = []

    def add(number: int) -> None:
        try:
            start.wait(timeout=20)
            add_server(tenant=tenant, name=f"server-{number}", region_code="RBX", node=node, actor=None)
            outcomes.append("made")
        except QuotaError:
            outcomes.append("refused")
        finally:
            connection.close()

    threads = [threading.Thread(target=add, args=(number,)) for number in range(AT_ONCE)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)

    assert sorted(outcomes) == ["made"] * HARD + ["refused"] * (AT_ONCE - HARD)
    assert Server.objects.filter(tenant=tenant).count() == HARD
