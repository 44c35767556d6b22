"""Limits: refused at hard, told at soft, exact, and never in the way of what runs."""

from __future__ import annotations

from typing import Any

import pytest
from django.db import transaction
from django.utils import timezone

from agents.models import Server
from agents.services import add_server
from backups import opening
from backups.models import Session
from backups.transitions import claim_job
from common.errors import InvalidInputError, QuotaError
from definitions.models import Definition
from definitions.services import create_definition, update_definition
from tenants import quotas
from tenants.models import AuditEvent, Quota, QuotaKind, Tenant
from tests.factories import (
    disk_of,
    make_backup,
    make_definition,
    make_disk,
    make_job,
    make_node,
    make_person,
    make_server,
    make_tenant,
)

pytestmark = pytest.mark.django_db
NOW = timezone.now()


def _limit(tenant: Tenant, **limits: Any) -> None:
    quotas.set_quotas(tenant=tenant, limits=limits, actor=make_person(superadmin=True), now=NOW)


def _add(tenant: Tenant, name: str) -> Server:
    return add_server(tenant=tenant, name=name, region_code="RBX", node=make_node(tenant), actor=None)


def test_a_server_beyond_the_hard_limit_is_refused_and_one_at_it_is_not() -> None:
    tenant = make_tenant()
    _limit(tenant, servers={"hard": 2})

    _add(tenant, "one")
    _add(tenant, "two")
    with pytest.raises(QuotaError) as caught:
        _add(tenant, "three")

    assert (caught.value.code, caught.value.http_status) == ("quota_exceeded", 409)
    assert Server.objects.filter(tenant=tenant).count() == 2


def test_another_tenants_servers_do_not_count() -> None:
    tenant = make_tenant()
    _limit(tenant, servers={"hard": 1})
    make_server(make_tenant())

    assert _add(tenant, "one").tenant == tenant


def test_no_row_is_no_limit() -> None:
    tenant = make_tenant()
    _limit(tenant, servers={"hard": 0})
    _limit(tenant, servers=None)

    assert _add(tenant, "one")
    assert not Quota.objects.exists()


def test_beyond_soft_is_allowed_and_told_once_until_it_was_below_again() -> None:
    tenant = make_tenant()
    _limit(tenant, servers={"soft": 1})
    told = AuditEvent.objects.filter(action="quota.soft_passed", tenant=tenant)

    _add(tenant, "one")
    assert told.count() == 0
    _add(tenant, "two")
    _add(tenant, "three")
    assert told.count() == 1
    Server.objects.filter(tenant=tenant).delete()
    _add(tenant, "four")
    assert Quota.objects.get().soft_passed_at is None
    _add(tenant, "five")
    assert told.count() == 2


def test_definitions_are_counted_per_server() -> None:
    tenant = make_tenant()
    first, second = make_server(tenant), make_server(tenant)
    _limit(tenant, definitions_per_server={"hard": 1})

    for server in (first, second):
        create_definition(disk=disk_of(server), name="daily", cron="0 1 * * *", now=NOW)
    make_disk(first)
    with pytest.raises(QuotaError):
        create_definition(disk=first.disks.get(number=2), name="daily", cron="0 1 * * *", now=NOW)

    assert Definition.objects.count() == 2


@pytest.mark.parametrize(("limit", "allowed", "refused"), [(14, 14, 15), (30, 30, 31), (365, 365, 366)])
def test_days_of_retention_are_capped(limit: int, allowed: int, refused: int) -> None:
    definition = make_definition(make_server())
    _limit(definition.tenant, retention_days={"hard": limit})

    update_definition(definition=definition, changes={"immutable_days": allowed}, now=NOW)
    with pytest.raises(QuotaError) as caught:
        update_definition(definition=definition, changes={"immutable_days": refused}, now=NOW)

    assert caught.value.field == "immutable_days"
    definition.refresh_from_db()
    assert definition.immutable_days == allowed


def test_keeping_all_is_beyond_every_cap_of_the_count() -> None:
    definition = make_definition(make_server(), retention_count=5)
    _limit(definition.tenant, retention_count={"hard": 10})

    for count in (11, 0):
        with pytest.raises(QuotaError):
            update_definition(definition=definition, changes={"retention_count": count}, now=NOW)
        definition.refresh_from_db()
    update_definition(definition=definition, changes={"retention_count": 10}, now=NOW)


def test_a_definition_from_before_a_lower_cap_can_be_changed_otherwise() -> None:
    definition = make_definition(make_server(), immutable_days=365)
    _limit(definition.tenant, retention_days={"hard": 30})

    update_definition(definition=definition, changes={"description": "still", "immutable_days": 365}, now=NOW)

    definition.refresh_from_db()
    assert definition.description == "still"


def _session(server: Server) -> Session:
    claim = claim_job(job_id=make_job(server, backup=make_backup(server, status="pending")).pk, now=timezone.now())
    assert claim is not None
    return Session.objects.select_related("job__tenant").get(job=claim.job, fence=claim.fence)


def test_a_new_backup_is_refused_when_the_bytes_are_used_up() -> None:
    server = make_server()
    make_backup(server)
    _limit(server.tenant, bytes={"hard": 1000})

    with pytest.raises(QuotaError) as caught:
        opening._admit(_session(server))

    assert "bytes in vaults" in caught.value.message


def test_a_backup_that_runs_is_not_broken_by_a_limit_or_a_suspension() -> None:
    server = make_server()
    make_backup(server)
    session = _session(server)
    Session.objects.filter(pk=session.pk).update(retain_until=NOW)
    _limit(server.tenant, bytes={"hard": 1})
    Tenant.objects.filter(pk=server.tenant_id).update(status="suspended")

    opening._admit(session)


def test_used_is_what_is_there() -> None:
    tenant = make_tenant()
    server = make_server(tenant)
    make_definition(server)
    make_definition(server)
    make_backup(server)
    _limit(tenant, servers={"soft": 0, "hard": 5})

    found = {use.kind: use for use in quotas.uses_of(tenant)}

    assert (found[QuotaKind.SERVERS].used, found[QuotaKind.SERVERS].is_soft_passed) == (1, True)
    assert found[QuotaKind.DEFINITIONS_PER_SERVER].used == 2
    assert found[QuotaKind.BYTES].used == 1000
    assert found[QuotaKind.RETENTION_DAYS].used is None


@pytest.mark.parametrize(
    "limits",
    [
        {"servers": {"soft": 5, "hard": 4}},
        {"servers": {"hard": -1}},
        {"servers": {"hard": 2**63}},
        {"retention_days": {"soft": 5}},
    ],
)
def test_limits_that_make_no_sense_change_nothing(limits: dict[str, Any]) -> None:
    tenant = make_tenant()
    _limit(tenant, agents={"hard": 3})

    with pytest.raises(InvalidInputError):
        _limit(tenant, agents={"hard": 4}, **limits)

    assert list(Quota.objects.values_list("kind", "hard")) == [("agents", 3)]


@pytest.mark.django_db(transaction=True)
def test_a_check_outside_of_a_transaction_is_a_bug() -> None:
    with pytest.raises(RuntimeError):
        quotas.check(tenant=make_tenant(), kind=QuotaKind.SERVERS)


def test_a_refused_addition_leaves_no_notice() -> None:
    tenant = make_tenant()
    _limit(tenant, servers={"soft": 0, "hard": 1})

    with pytest.raises(RuntimeError), transaction.atomic():
        quotas.check(tenant=tenant, kind=QuotaKind.SERVERS)
        raise RuntimeError

    assert Quota.objects.get().soft_passed_at is None
