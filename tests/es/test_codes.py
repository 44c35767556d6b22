"""Every es resource and method by each error code of its grammar, and by what is refused before anything is looked at.

The table is compared with that of the roles, which is compared with the URLconf: a resource without a row fails. The
world is built once; what a request does is rolled back behind it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from django.core.cache import cache
from django.db import transaction
from django.utils import timezone

from agents.models import Disk, Node, Server
from backups.models import Backup
from backups.states import JobKind
from backupsite.es_api.errors import STATUSES
from common.errors import UnavailableError
from definitions.models import Definition
from tenants.models import ApprovalRule, Quota, QuotaKind, Tenant
from tests.es.asking import Asker
from tests.es.test_roles import TABLE, filled
from tests.factories import disk_of, make_backup, make_job, make_server, make_storage, make_tenant_key
from tests.worlds import Estate, World, make_world
from vaults.models import Envelope, ObjectUse, StoredObject, TenantKey, Vault, VaultDeletion

pytestmark = [pytest.mark.django_db]
# Who may do all, who may only look, and who may know nothing of the server.
PEOPLE = ("super", "owner_a1", "owner_a2", "admin_b")
PLAN = {"schedule": "0 4 * * *", "retention": 30}


@dataclass(frozen=True)
class Case:
    """An administrator is told `code` with `status`: by what is given, or by what is so beforehand. `named`: another
    name than the own one in the address."""

    status: int
    code: str
    given: Callable[[World], dict[str, Any]] = lambda world: {}
    before: Callable[[Estate], object] = lambda estate: None
    named: dict[str, str] = field(default_factory=dict)
    asked_by: str = "admin_a"

    @property
    def label(self) -> str:
        return f"{self.status}-{self.code}"


def given(**parameters: Any) -> Callable[[World], dict[str, Any]]:
    return lambda world: parameters


def restore(**other: Any) -> Callable[[World], dict[str, Any]]:
    return lambda world: {"target_hostname_or_uuid": world.ours.server.name, "target_disk_id": 1, **other}


def of_disk(**changes: Any) -> Callable[[Estate], object]:
    return lambda estate: Disk.objects.filter(pk=disk_of(estate.server).pk).update(**changes)


def of_backup(**changes: Any) -> Callable[[Estate], object]:
    return lambda estate: Backup.objects.filter(pk=estate.backup.pk).update(**changes)


def of_node(**changes: Any) -> Callable[[Estate], object]:
    return lambda estate: Node.objects.filter(pk=estate.server.node_id).update(**changes)


def of_tenant(**changes: Any) -> Callable[[Estate], object]:
    return lambda estate: Tenant.objects.filter(pk=estate.tenant.pk).update(**changes)


def of_vault(**changes: Any) -> Callable[[Estate], object]:
    return lambda estate: Vault.objects.filter(tenant=estate.tenant).update(**changes)


def at_most(kind: QuotaKind, hard: int) -> Callable[[Estate], object]:
    return lambda estate: Quota.objects.create(tenant=estate.tenant, kind=kind, hard=hard)


def stored_elsewhere(estate: Estate) -> None:
    storage = make_storage(make_server(estate.tenant).node)
    of_backup(storage=storage, type="file", place="a.img", vault=None, manifest=None)(estate)


def on_a_copy(estate: Estate) -> None:
    storage = make_storage(estate.server.node)
    of_node(status="maintenance")(estate)
    values = {"type": "file", "vault": None, "storage": storage, "backup_node": storage.node}
    Definition.objects.filter(pk=estate.definition.pk).update(**values)


def sealed_to_the_customer(estate: Estate) -> None:
    """The session of the backup has one envelope, for a key whose private half the customer alone has."""
    mode = {"mode": TenantKey.Mode.CUSTOMER, "wrapped_private_key": None}
    make_tenant_key(estate.tenant, status=TenantKey.Status.RETIRED, **mode)
    manifest = estate.backup.manifest
    assert manifest is not None
    envelope = StoredObject.objects.get(pk=manifest.pk)
    envelope.pk, envelope.kind, envelope.key = None, "k", "k/1"
    envelope.save()
    Envelope.objects.create(stored_object=envelope, writer_session="1" * 32, recipient="f" * 64)
    ObjectUse.objects.create(manifest=manifest, needed=envelope)


def leaving(estate: Estate) -> None:
    now, names = timezone.now(), {"name": estate.vault.name, "requested_by_name": "super"}
    VaultDeletion.objects.create(vault=estate.vault, tenant=estate.tenant, requested_at=now, undo_until=now, **names)


def twin(estate: Estate) -> None:
    Server.objects.filter(pk=estate.other_server.pk).update(tenant=make_server(name="elsewhere").tenant)
    Server.objects.filter(pk=estate.other_server.pk).update(name=estate.server.name)


NO_DC = Case(404, "not_found", given(dc="no-such-dc"))
FOREIGN_DC = Case(404, "not_found", lambda world: {"dc": world.theirs.tenant.name})
NO_COLUMN = Case(412, "precondition_failed", given(order_by="secret"))
NO_DISK = Case(412, "no_such_disk", given(disk_id=7))
# As there: backups outlive their disk, so their address is not refused for its number.
NO_BACKUP_OF_DISK = Case(404, "not_found", given(disk_id=7))
DISK_ZERO = Case(412, "no_such_disk", given(disk_id=0))
DISK_WORD = Case(412, "no_such_disk", given(disk_id="first"))
NO_NUMBERS = (DISK_ZERO, DISK_WORD)
NO_PAGE = Case(400, "invalid_input", given(limit=0))
SUSPENDED = Case(423, "tenant_suspended", before=of_tenant(status="suspended"))
TWIN = Case(409, "ambiguous_name", before=twin, asked_by="super")
IN_USE = Case(417, "backup_in_use", before=of_backup(status="restore"))
LISTS = (NO_COLUMN, NO_PAGE, NO_DC, FOREIGN_DC)

CASES: dict[tuple[str, str], tuple[Case, ...]] = {
    ("GET", "vm"): LISTS,
    ("GET", "vm/<vm>"): (TWIN, NO_DC, FOREIGN_DC),
    ("GET", "vm/define/backup"): LISTS,
    ("GET", "vm/<vm>/define/backup"): (*LISTS, NO_DISK, *NO_NUMBERS, TWIN),
    ("GET", "vm/<vm>/define/backup/<definition>"): (NO_DISK, *NO_NUMBERS, NO_DC, TWIN),
    ("POST", "vm/<vm>/define/backup/<definition>"): (
        Case(400, "invalid_input"),
        Case(400, "quota_exceeded", given(**PLAN), at_most(QuotaKind.DEFINITIONS_PER_SERVER, 1)),
        Case(404, "not_found", lambda world: {**PLAN, "type": 2, "node": world.theirs.node.name}),
        Case(406, "name_taken", given(**PLAN), named={"<definition>": "def-a"}),
        Case(412, "no_such_disk", given(**PLAN, disk_id=7)),
        Case(412, "no_such_disk", given(**PLAN, disk_id=0)),
        Case(423, "tenant_suspended", given(**PLAN), of_tenant(status="suspended")),
    ),
    ("PUT", "vm/<vm>/define/backup/<definition>"): (
        Case(400, "read_only", given(zpool="another")),
        Case(409, "approval_needed", given(retention=1), lambda estate: ApprovalRule.objects.update(required=True)),
        NO_DISK,
        *NO_NUMBERS,
        Case(
            423,
            "retired",
            given(desc="x"),
            lambda estate: Definition.objects.filter(pk=estate.definition.pk).update(
                retired_at=timezone.now(), active=False, next_run_at=None
            ),
        ),
    ),
    ("DELETE", "vm/<vm>/define/backup/<definition>"): (NO_DISK, *NO_NUMBERS, NO_DC),
    ("GET", "vm/<vm>/backup"): (*LISTS, *NO_NUMBERS, Case(404, "not_found", given(hostname="never"))),
    ("DELETE", "vm/<vm>/backup"): (
        Case(404, "not_found", given(bkpnames=["none"])),
        Case(404, "not_found", lambda world: {"bkpnames": [world.ours.backup.name], "disk_id": 2}),
        *NO_NUMBERS,
        Case(412, "precondition_failed"),
        Case(412, "precondition_failed", given(bkpnames={"a": 1})),
        Case(412, "precondition_failed", given(bkpnames=5)),
        Case(400, "invalid_input", given(bkpnames=["x"] * 501)),
        Case(417, "backup_in_use", lambda world: {"bkpnames": [world.ours.backup.name]}, of_backup(status="restore")),
    ),
    ("GET", "vm/<vm>/backup/<name>"): (NO_BACKUP_OF_DISK, *NO_NUMBERS, TWIN, NO_DC),
    ("POST", "vm/<vm>/backup/<name>"): (
        Case(400, "invalid_input", given(note="x" * 256)),
        Case(404, "not_found", named={"<name>": "no-such-definition"}),
        NO_DISK,
        *NO_NUMBERS,
        Case(417, "quota_exceeded", before=at_most(QuotaKind.BYTES, 0)),
        Case(423, "vault_not_ready", before=of_vault(status="pending")),
        Case(423, "vault_leaving", before=leaving),
        Case(423, "disk_incomplete", before=of_disk(incomplete_since=timezone.now())),
        Case(423, "node_in_maintenance", before=on_a_copy),
        SUSPENDED,
    ),
    ("PUT", "vm/<vm>/backup/<name>"): (
        Case(400, "invalid_input"),
        Case(400, "invalid_input", restore(target_disk_id=0)),
        *NO_NUMBERS,
        Case(400, "invalid_input", given(note="x" * 256)),
        Case(400, "invalid_input", restore(note="x")),
        Case(
            404, "not_found", lambda world: {**restore()(world), "target_hostname_or_uuid": str(world.theirs.server.pk)}
        ),
        Case(404, "not_found", lambda world: restore(dc=world.theirs.tenant.name)(world)),
        Case(409, "restore_under_way", restore(), lambda estate: make_job(estate.server, kind=JobKind.RESTORE)),
        Case(412, "no_such_disk", restore(target_disk_id=2)),
        Case(417, "expectation_failed", restore(force=False)),
        Case(417, "backup_not_ok", restore(), of_backup(status="lost")),
        Case(423, "node_in_maintenance", restore(), of_node(status="maintenance")),
        Case(428, "target_too_small", restore(), of_disk(size_bytes=1024)),
        Case(428, "other_kind_of_disk", restore(), of_disk(driver="zfs")),
        Case(428, "wrong_content", restore(), of_backup(content="tree")),
        Case(428, "copy_elsewhere", restore(), stored_elsewhere),
        Case(428, "customer_key_needed", restore(), sealed_to_the_customer),
    ),
    ("DELETE", "vm/<vm>/backup/<name>"): (IN_USE, Case(404, "not_found", given(disk_id=2)), *NO_NUMBERS),
    ("GET", "dc"): (NO_COLUMN, NO_PAGE, NO_DC, FOREIGN_DC),
    ("GET", "dc/<name>"): (Case(404, "not_found", named={"<name>": "Tenant b"}),),
    ("GET", "node"): LISTS,
    ("GET", "node/<node>"): (NO_DC, FOREIGN_DC),
    ("GET", "node/<node>/define/backup"): LISTS,
    ("GET", "node/<node>/backup"): (*LISTS, *NO_NUMBERS),
    ("GET", "node/<node>/storage"): LISTS,
    ("GET", "node/<node>/storage/<zpool>"): (NO_DC, FOREIGN_DC),
    ("PUT", "node/<node>/storage/<zpool>/snapshot"): (Case(403, "not_allowed"), NO_DC),
    ("GET", "task"): (NO_DC, FOREIGN_DC),
    ("GET", "task/log"): (
        Case(400, "invalid_input", given(status="DONE")),
        Case(400, "invalid_input", given(object_name="x")),
        Case(400, "invalid_input", given(date_from="yesterday")),
        NO_COLUMN,
        FOREIGN_DC,
    ),
    ("GET", "task/log/stats"): (Case(400, "invalid_input", given(last=0)), NO_DC),
    ("GET", "task/<task>"): (NO_DC, FOREIGN_DC),
    ("GET", "task/<task>/status"): (NO_DC, FOREIGN_DC),
    ("GET", "task/<task>/done"): (NO_DC, FOREIGN_DC),
    ("PUT", "task/<task>/cancel"): (
        Case(406, "job_ended", before=lambda estate: type(estate.job).objects.update(state="ok")),
        FOREIGN_DC,
    ),
}


@dataclass
class Door:
    world: World
    askers: dict[str, Asker]

    def ask(self, name: str, method: str, path: str, parameters: dict[str, Any], **headers: Any) -> Any:
        address = filled(path, method, self.world.ours)
        client = self.askers[name].client
        return (
            client.get(address, parameters, **headers)
            if method == "GET"
            else client.generic(method, address, json.dumps(parameters), content_type="application/json", **headers)
        )


@pytest.fixture(scope="module")
def door(django_db_setup: None, django_db_blocker: Any) -> Iterator[Door]:
    with django_db_blocker.unblock(), transaction.atomic():
        world = make_world()
        names = {"admin_a", *PEOPLE}
        reader = Asker(world.people["admin_a"], scope="read")
        yield Door(
            world, {"nobody": Asker(None), "reader": reader, **{name: Asker(world.people[name]) for name in names}}
        )
        transaction.set_rollback(True)


def test_each_resource_has_a_row() -> None:
    assert set(CASES) == set(TABLE)
    assert all(CASES.values())


def test_every_code_with_a_status_of_its_own_is_asked_for() -> None:
    asked = {(case.code, case.status) for cases in CASES.values() for case in cases}

    assert set(STATUSES.items()) <= asked


@pytest.mark.parametrize(
    ("method", "path", "case"),
    [
        pytest.param(method, path, case, id=f"{method}-{path}-{number}-{case.label}")
        for (method, path), cases in CASES.items()
        for number, case in enumerate(cases)
    ],
)
def test_the_code_and_the_words(door: Door, method: str, path: str, case: Case) -> None:
    for part, name in case.named.items():
        path = path.replace(part, name)
    with transaction.atomic():
        case.before(door.world.ours)
        answer = door.ask(case.asked_by, method, path, case.given(door.world))
        transaction.set_rollback(True)

    body = answer.json()
    assert (answer.status_code, body["code"]) == (case.status, case.code), body
    assert (body["status"], body["task_id"], answer["Content-Type"]) == ("FAILURE", None, "application/problem+json")
    assert body["detail"] and body["result"]


@pytest.mark.parametrize(
    ("method", "path", "case"),
    [
        pytest.param(method, path, case, id=f"{method}-{path}-{number}-{case.label}")
        for (method, path), cases in CASES.items()
        if method != "GET"
        for number, case in enumerate(cases)
        if case.status in {409, 417, 423, 428} and case is not TWIN
    ],
)
def test_how_a_thing_stands_is_told_to_those_who_may_act_on_it(door: Door, method: str, path: str, case: Case) -> None:
    """Others learn that they may not, or that it is not there, whatever else stands in the way."""
    for part, name in case.named.items():
        path = path.replace(part, name)
    with transaction.atomic():
        case.before(door.world.ours)
        told = {name: door.ask(name, method, path, case.given(door.world)) for name in PEOPLE}
        transaction.set_rollback(True)

    statuses = {name: answer.status_code for name, answer in told.items()}
    assert statuses == {"super": case.status, "owner_a1": 403, "owner_a2": 404, "admin_b": 404}
    words = told["super"].json()["detail"]
    assert all(words not in told[name].content.decode() for name in PEOPLE[1:])


@pytest.mark.parametrize(
    ("method", "path", "service"),
    [
        ("POST", "vm/<vm>/backup/<name>", "backups.request_backup"),
        ("PUT", "vm/<vm>/backup/<name>", "backups.request_restore"),
        ("DELETE", "vm/<vm>/backup/<name>", "backups.remove_backups"),
        ("POST", "vm/<vm>/define/backup/<definition>", "definitions.create_definition"),
        ("PUT", "task/<task>/cancel", "tasks.cancel_job"),
    ],
)
def test_what_does_not_answer_is_503_and_nothing_is_half_done(
    door: Door, monkeypatch: pytest.MonkeyPatch, method: str, path: str, service: str
) -> None:
    """To those who may ask for it; what the service had written is taken back."""

    def away(**options: Any) -> None:
        Tenant.objects.update(title="half done")
        raise UnavailableError("The signer does not answer. Try again in a minute.", code="signer_unavailable")

    monkeypatch.setattr(f"backupsite.es_api.{service}", away)
    parameters = TABLE[method, path].given(door.world.ours)
    with transaction.atomic():
        told = {name: door.ask(name, method, path, parameters) for name in (*PEOPLE, "admin_a", "nobody")}
        halves = Tenant.objects.filter(title="half done").count()
        transaction.set_rollback(True)

    statuses = {name: answer.status_code for name, answer in told.items()}
    assert statuses == {
        **dict.fromkeys(("super", "admin_a"), 503),
        **dict.fromkeys(("owner_a2", "admin_b"), 404),
        "owner_a1": 403,
        "nobody": 401,
    }
    body = told["admin_a"].json()
    assert (body["code"], body["status"], body["task_id"]) == ("signer_unavailable", "FAILURE", None)
    assert body["result"] == {"detail": body["detail"]} and "Try again" in body["detail"]
    assert halves == 0


@pytest.mark.parametrize(("method", "path"), sorted(TABLE))
def test_what_every_resource_refuses(door: Door, method: str, path: str) -> None:
    """A parameter that it does not know, a body in chunks or of another kind, a key that is none, one that is not
    alone; and no header says another method."""
    override = {"HTTP_X_HTTP_METHOD_OVERRIDE": "OPTIONS", "HTTP_X_METHOD_OVERRIDE": "OPTIONS"}
    with transaction.atomic():
        told = [
            door.ask("admin_a", method, path, {"tenant": "x"}, **override),
            door.ask("admin_a", method, path, {"cb_url": "http://127.0.0.1/"}),
            door.ask("admin_a", method, path, {}, HTTP_TRANSFER_ENCODING="chunked"),
            door.ask("nobody", method, path, {}),
            door.ask("nobody", method, path, {}, HTTP_ES_API_KEY=""),
            door.ask("admin_a", method, path, {}, HTTP_AUTHORIZATION="Token bks_another.key"),
        ]
        reader = door.ask("reader", method, path, {})
        transaction.set_rollback(True)

    # A key for reading reads, and nothing else.
    read = reader.status_code in {200, 201}
    assert read if method == "GET" else (reader.status_code, reader.json()["code"]) == (403, "token_scope")
    assert [answer.status_code for answer in told] == [400, 400, 411, 401, 401, 401]
    assert all(answer.json()["detail"] for answer in told)


def test_a_key_that_is_none_is_not_made_good_by_a_session(door: Door) -> None:
    signed_in = door.world.client("admin_a")
    for header in ({"HTTP_ES_API_KEY": "bks_wrong.key"}, {"HTTP_ES_API_KEY": ""}, {"HTTP_AUTHORIZATION": "Token x"}):
        assert signed_in.get("/api/vm", **header).status_code == 401
    assert signed_in.get("/api/vm").status_code == 200
    # A key in the address is no key.
    assert door.askers["nobody"].client.get("/api/vm?ES-API-KEY=bks_a.b").status_code == 401


def test_a_page_of_another_site_does_nothing_by_a_session(door: Door) -> None:
    signed_in = door.world.client("admin_a")
    signed_in.handler.enforce_csrf_checks = True
    address = filled("vm/<vm>/backup/<name>", "DELETE", door.world.ours)
    for kind in ("application/json", "text/plain"):
        assert signed_in.generic("DELETE", address, "{}", content_type=kind).status_code == 403
    assert Backup.objects.in_catalogue().filter(pk=door.world.ours.backup.pk).exists()


@pytest.mark.parametrize(
    ("text", "kind", "status"),
    [
        ("disk_id=1", "application/x-www-form-urlencoded", 415),
        ("disk_id=1", "application/json", 400),
        ('{"disk_id": 1, "disk_id": 2}', "application/json", 400),
        ("[" * 100_000, "application/json", 400),
        ('{"note": "' + "x" * 1_100_000 + '"}', "application/json", 400),
        ('{"disk_id": 1e400}', "application/json", 400),
        ('{"note": {"a": [1]}}', "application/json", 400),
        ('{"definition": "x", "status": "ok", "requested_by": "super"}', "application/json", 400),
    ],
    ids=["form", "no-json", "twice", "deep", "large", "infinite", "no-text", "fields-of-ours"],
)
def test_a_body_that_is_not_what_it_should_be_begins_nothing(door: Door, text: str, kind: str, status: int) -> None:
    address = filled("vm/<vm>/backup/<name>", "POST", door.world.ours)
    before = Backup.objects.count()

    answer = door.askers["admin_a"].client.generic("POST", address, text, content_type=kind)

    assert answer.status_code == status
    assert Backup.objects.count() == before


def test_too_many_requests_are_429_in_the_same_form(door: Door, settings: Any) -> None:
    settings.API_RATES = {"read": "1/m"}
    cache.clear()
    told = [door.ask("admin_a", "GET", "vm", {}) for _ in range(2)]
    cache.clear()

    assert [answer.status_code for answer in told] == [200, 429]
    assert (told[1].json()["status"], told[1].json()["code"]) == ("FAILURE", "throttled")
    assert int(told[1]["Retry-After"]) > 0


def test_made_backups_are_never_taken_for_one_of_another_disk(door: Door) -> None:
    """`disk_id` is part of the name: what is said in the address and in the body must be the same."""
    with transaction.atomic():
        name = make_backup(door.world.ours.server).name
        address = f"/api/vm/{door.world.ours.server.name}/backup/{name}?disk_id=1"
        answer = door.askers["admin_a"].client.delete(address, {"disk_id": 2})
        transaction.set_rollback(True)

    assert (answer.status_code, set(answer.json()["result"])) == (400, {"disk_id"})
