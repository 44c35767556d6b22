"""The pages of the fleet: what waits for a person, what is unused, a token that is shown once, a restore to confirm."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone
from rest_framework.test import APIClient

from agents.models import Agent, EnrolmentToken
from backups.models import AskedRestore, Backup, Job
from tenants.models import Person, Quota, QuotaKind
from tests.agents.agent_worlds import bare_server, enrolled
from tests.factories import make_asked_restore, make_backup, make_person, make_tenant

pytestmark = pytest.mark.django_db


def signed_in(person: Person) -> APIClient:
    client = APIClient()
    client.force_login(person)
    return client


@pytest.fixture
def provider() -> Any:
    return signed_in(make_person(superadmin=True))


def test_a_token_is_shown_once_and_can_be_taken_back() -> None:
    tenant = make_tenant()
    server, client = bare_server(tenant), signed_in(make_person(administers=[tenant]))
    address = f"/servers/{server.pk}/enrol/"
    assert address in client.get(f"/servers/{server.pk}/").content.decode()

    page = client.post(address, {"expected_host": "web01", "minutes": "10"}, format="multipart").content.decode()

    assert re.search(r"install\.sh \| sh -s -- bsa1\.[\w-]{43}\.[0-9a-f]{40}", page)
    again = client.get(address).content.decode()
    assert "bsa1." not in again
    token = EnrolmentToken.objects.get()
    assert f"/enrolment-tokens/{token.pk}/revoke/" in again
    client.post(f"/enrolment-tokens/{token.pk}/revoke/")
    assert EnrolmentToken.objects.get().state(timezone.now()) == "revoked"
    assert client.post(address, {"minutes": "61"}, format="multipart").status_code == 400


def test_the_list_says_what_waits_what_is_not_used_and_how_many_there_may_be(provider: Any) -> None:
    tenant = make_tenant("Acme")
    used, silent, copied = (enrolled(tenant, name=f"web0{number}") for number in (1, 2, 3))
    now = timezone.now()
    Quota.objects.create(tenant=tenant, kind=QuotaKind.AGENTS, hard=9)
    Agent.objects.update(last_seen_at=now)
    Agent.objects.filter(pk=silent.agent.pk).update(last_seen_at=now - timedelta(days=31))
    Agent.objects.filter(pk=copied.agent.pk).update(
        status="quarantined", quarantine_reason="web09 polled with its key."
    )
    make_backup(used.server)

    page = provider.get("/agents/").content.decode()
    unused = provider.get("/agents/?unused").content.decode()

    for said in ("Acme: 3 of 9 agents", "In quarantine: web09 polled with its key.", "1 not heard of for a month"):
        assert said in page, said
    assert f"/agents/{silent.agent.pk}/revoke/" in unused
    assert "web01" not in unused
    listed = provider.get("/api/v1/agents/?unused=true").json()["results"]
    assert [row["name"] for row in listed] == ["web02"]
    shown = provider.get(f"/api/v1/agents/{used.agent.pk}/").json()
    assert shown["last_good_at"] is not None
    assert shown["next_run_at"] is not None

    detail = provider.get(f"/agents/{copied.agent.pk}/").content.decode()
    assert f"/agents/{copied.agent.pk}/readmit/" in detail
    provider.post(f"/agents/{copied.agent.pk}/readmit/")
    assert Agent.objects.get(pk=copied.agent.pk).status == Agent.Status.ENROLLED


def test_a_restore_that_a_server_asks_for_is_confirmed_by_its_code(provider: Any) -> None:
    estate = enrolled()
    backup = make_backup(estate.server)
    Backup.objects.update(content="tree")
    asked, other = (make_asked_restore(estate.agent, backup, code=code) for code in ("ABCD-EFGH", "JKMN-PQRS"))
    address = f"/asked-restores/{asked.pk}/"
    assert address in provider.get("/agents/").content.decode()
    # The code is on the server, and nowhere here.
    assert "ABCD" not in provider.get(address).content.decode()

    wrong = provider.post(address, {"confirm": "1", "code": "JKMN-PQRS"}, format="multipart")
    assert (wrong.status_code, Job.objects.count()) == (400, 0)
    right = provider.post(address, {"confirm": "1", "code": "abcdefgh"}, format="multipart")
    assert right["Location"] == f"/jobs/{Job.objects.get().pk}/"
    provider.post(f"/asked-restores/{other.pk}/", {"refuse": "1"}, format="multipart")
    assert AskedRestore.objects.get(pk=other.pk).state == "refused"
    again = provider.post(address, {"confirm": "1", "code": "ABCD-EFGH"}, format="multipart")
    assert (again.status_code, Job.objects.count()) == (400, 1)
    assert "It is confirmed." in again.content.decode()
