"""What an agent may do with a claim, how soon it ends with its key, and restores that a server asks for."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import msgspec
import pytest
from django.utils import timezone
from rest_framework.test import APIClient
from time_machine import travel

from agents.agent_messages import RestoreRequest
from agents.models import Server, WriterKey
from agents.principals import quarantine_agent, revoke_agent
from agents.protocol import PATH_PREFIX, Progress
from backups.agent_jobs import sweep_agents
from backups.asked_restores import confirm_restore, forget_asked_restores, refuse_asked
from backups.dispatcher import dispatch_due
from backups.models import AskedRestore, Backup, Budget, Job, JobEvent
from backups.opening import note_place
from backups.server_moves import move_server
from backups.states import JobState
from backups.transitions import AGENT_LEASE, claim_job
from backups.writer_keys import writer_keys_for, writer_keys_of
from common.errors import ConflictError, InvalidInputError, NotAllowedError, NotFoundError
from definitions.choices import check_choices
from definitions.models import Definition
from definitions.planner import heat_map
from tenants.models import AuditEvent
from tests.agents.agent_worlds import Estate, enrolled
from tests.factories import make_backup, make_node, make_person, make_server, make_storage, make_tenant
from vaults.grants import GRANT_LIFETIME
from vaults.models import Domain, Endpoint, Vault

pytestmark = [pytest.mark.django_db, pytest.mark.urls("tests.agents.both_urls")]


@pytest.fixture
def estate() -> Estate:
    return enrolled(next_run_at=timezone.now())


def claimed(estate: Estate) -> tuple[Job, str]:
    """A running backup, and the token of its session."""
    dispatch_due(now=timezone.now())
    job = Job.objects.get(disk=estate.disk)
    claim = estate.client.claim(job.pk).json()
    return job, claim["session_token"]


def at_gate(path: str, token: str, message: msgspec.Struct) -> tuple[int, str]:
    answer = APIClient().generic(
        "POST",
        f"{PATH_PREFIX}{path}",
        msgspec.json.encode(message),
        content_type="application/json",
        HTTP_AUTHORIZATION=f"Bearer {token}",
    )
    return answer.status_code, answer.json().get("code", "")


@pytest.mark.case("AZ-11")
@pytest.mark.parametrize("how", ["revoke", "quarantine", "unenrol"])
def test_with_its_key_ends_all_that_the_agent_has(estate: Estate, how: str) -> None:
    job, token = claimed(estate)
    assert at_gate("heartbeat", token, Progress("reading", 1, 2, 0))[0] == 200

    if how == "unenrol":
        assert estate.client.ask("unenrol/").status_code == 200
    elif how == "revoke":
        revoke_agent(agent=estate.agent, actor=None)
    else:
        quarantine_agent(agent=estate.agent, reason="A copy.")

    for path in ("heartbeat", "grants/put", "grants/get", "open", "commit"):
        assert at_gate(path, token, Progress("reading", 1, 2, 0)) == (409, "agent_revoked"), path
    sweep_agents(now=timezone.now())
    job.refresh_from_db()
    assert (job.state, job.code) == (JobState.CANCELED, "agent_stopped")
    assert not Backup.objects.exists()
    # What was granted before ends by itself.
    assert timedelta(minutes=15) >= GRANT_LIFETIME


@pytest.mark.case("AG-13")
def test_half_a_minute_without_a_network_ends_no_session_of_an_agent(estate: Estate) -> None:
    """Only the agent itself could take its job over, and after four such losses the job would fail."""
    _, token = claimed(estate)
    began = timezone.now()
    for seconds, status in ((45, 200), (90, 200), (91 + AGENT_LEASE.total_seconds(), 409)):
        with travel(began + timedelta(seconds=seconds), tick=False):
            assert at_gate("heartbeat", token, Progress("reading", 1, 2, 0))[0] == status, seconds


def test_what_the_gate_notes_is_the_agents(estate: Estate) -> None:
    job, token = claimed(estate)

    at_gate("fail", token, _Failure("no_space", "The disk is full."))

    event = AuditEvent.objects.get(action="backup.no_space")
    assert (event.actor_kind, event.actor_id) == ("agent", str(estate.agent.pk))
    job.refresh_from_db()
    assert (job.state, job.code) == (JobState.FAILED, "no_space")


def test_whose_manifests_count(estate: Estate) -> None:
    """An agent's for its own server alone, also for what it wrote before the server had another domain."""
    other = enrolled(estate.server.tenant, name="web02")
    now = timezone.now()
    keys = {
        one.agent.pk: WriterKey.objects.create(agent=one.agent, public_key=one.server.name.encode(), added_at=now)
        for one in (estate, other)
    }
    vault = Vault.objects.get(tenant=estate.server.tenant)
    domains = [
        Domain.objects.create(tenant=vault.tenant, vault=vault, wrapped_id_key=b"x", wrapped_map_key=b"x") for _ in "ab"
    ]
    Server.objects.filter(pk=estate.server.pk).update(domain=domains[0])
    Server.objects.filter(pk=other.server.pk).update(domain=domains[1])
    dispatch_due(now=now)

    assert list(writer_keys_of(domains[0])) == [keys[estate.agent.pk]]
    assert list(writer_keys_of(domains[1])) == [keys[other.agent.pk]]
    assert list(writer_keys_for(Job.objects.get(disk=estate.disk))) == [keys[estate.agent.pk]]
    backup = make_backup(estate.server)
    assert list(writer_keys_of(backup.manifest.domain)) == [keys[estate.agent.pk]]


# --- a server without a node among the others -------------------------------------------------------------------------


def test_budgets_of_nodes_count_each_server_with_an_agent_by_itself(estate: Estate) -> None:
    other = enrolled(estate.server.tenant, name="web02", next_run_at=timezone.now())
    Budget.objects.create(kind=Budget.Kind.NODE, most_jobs=1)
    tenant_wide = Budget.objects.create(kind=Budget.Kind.TENANT, most_jobs=1)
    dispatch_due(now=timezone.now())
    first, second = Job.objects.order_by("created_at")

    assert claim_job(job_id=first.pk, now=timezone.now()) is not None
    waits = other.client if second.disk_id == other.disk.pk else estate.client
    refused = waits.claim(second.pk)
    assert (refused.status_code, refused.json()["code"]) == (409, "not_to_be_had")

    tenant_wide.delete()
    assert waits.claim(second.pk).status_code == 200


def test_lists_and_plans_with_and_without_a_node(estate: Estate) -> None:
    mixed = make_server(estate.server.tenant)
    client = APIClient()
    client.force_login(make_person(superadmin=True))

    for path in ("servers/", "disks/", "definitions/", "jobs/", "backups/", "agents/"):
        assert client.get(f"/api/v1/{path}").status_code == 200, path
    found = {row["name"]: row["node"] for row in client.get("/api/v1/servers/").json()["results"]}
    assert found == {"web01": None, mixed.name: str(mixed.node_id)}
    for path in (f"servers/{estate.server.pk}/", "agents/", f"agents/{estate.agent.pk}/", "definitions/overview/"):
        assert client.get(f"/{path}").status_code == 200, path
    assert heat_map(Definition.objects.all(), now=timezone.now()).rows == ()
    assert client.get("/definitions/load/").status_code == 200
    node = make_node(estate.server.tenant)
    copy = Definition(
        disk=estate.disk, tenant=estate.server.tenant, type="file", backup_node=node, storage=make_storage(node)
    )
    with pytest.raises(InvalidInputError, match="Choose Vault"):
        check_choices(copy)


def test_a_server_with_an_agent_moves_with_it(estate: Estate) -> None:
    target = make_tenant()

    move_server(server=estate.server, tenant=target, confirmation="web01", actor=make_person(superadmin=True))

    assert estate.client.ask("me/", method="GET").json()["tenant"] == target.title
    assert Definition.objects.get().tenant == target


def test_a_vault_in_the_servers_own_region_is_told_of_with_each_run(estate: Estate) -> None:
    """The affinity table refuses it; a server may move there later."""
    dispatch_due(now=timezone.now())
    job = Job.objects.get()
    vault = Vault.objects.select_related("endpoint").get(tenant=estate.server.tenant)

    note_place(job, vault)
    assert not JobEvent.objects.filter(code="same_region").exists()
    Server.objects.filter(pk=estate.server.pk).update(region=Endpoint.objects.get(pk=vault.endpoint_id).region)
    job = Job.objects.get()
    note_place(job, vault)
    note_place(job, vault)

    assert AuditEvent.objects.filter(action="backup.same_region").count() == 2


# --- restores that a server asks for ----------------------------------------------------------------------------------


def wish(backup: Backup, **changes: Any) -> RestoreRequest:
    return RestoreRequest(**{"backup": str(backup.pk), "target": "/srv/restored", **changes})


def tree_backup(estate: Estate) -> Backup:
    backup = make_backup(estate.server)
    Backup.objects.filter(pk=backup.pk).update(content="tree")
    backup.refresh_from_db()
    return backup


def test_a_server_asks_and_a_person_with_the_code_lets_it_happen(estate: Estate) -> None:
    backup, person = tree_backup(estate), make_person(administers=[estate.server.tenant])

    asked = estate.client.ask("restores/", wish(backup, paths=["etc/hosts"])).json()

    assert (asked["state"], asked["job"]) == ("waits", "")
    assert asked["portal_url"].endswith(f"/asked-restores/{asked['request']}/")
    assert not Job.objects.exists()
    row = AskedRestore.objects.get()
    with pytest.raises(InvalidInputError, match="another code"):
        confirm_restore(asked=row, code="2222-2222", actor=person, now=timezone.now())
    job = confirm_restore(asked=row, code=asked["code"].lower().replace("-", " "), actor=person, now=timezone.now())
    told = estate.client.ask(f"restores/{row.pk}/", method="GET").json()
    assert (told["state"], told["job"]) == ("confirmed", str(job.pk))
    assert (job.files["paths"], job.files["folder"], job.node) == (["etc/hosts"], "srv/restored", None)
    [offer] = estate.client.polled().jobs
    assert (offer.kind, offer.begins_at_once) == ("restore", True)
    with pytest.raises(ConflictError, match="confirmed already"):
        confirm_restore(asked=row, code=asked["code"], actor=person, now=timezone.now())


def test_who_may_not_restore_confirms_nothing(estate: Estate) -> None:
    estate.client.ask("restores/", wish(tree_backup(estate)))
    row = AskedRestore.objects.get()

    for person, error in (
        (make_person(owns=[estate.server]), NotAllowedError),
        (make_person(administers=[make_tenant()]), NotFoundError),
    ):
        with pytest.raises(error):
            confirm_restore(asked=row, code=row.code, actor=person, now=timezone.now())
    with travel(timezone.now() + timedelta(minutes=61)):
        with pytest.raises(ConflictError, match="expired"):
            confirm_restore(asked=row, code=row.code, actor=make_person(superadmin=True), now=timezone.now())
        assert estate.client.ask(f"restores/{row.pk}/", method="GET").json()["state"] == "expired"
    assert forget_asked_restores(now=timezone.now() + timedelta(days=40)) == 1
    assert not Job.objects.exists()


def test_what_a_server_may_not_ask_for(estate: Estate) -> None:
    stranger = tree_backup(enrolled(name="theirs"))
    own = tree_backup(estate)
    for message, status, code in (
        (wish(stranger), 404, "not_found"),
        (wish(own, target="relative"), 400, "invalid_input"),
        (wish(own, target="/"), 400, "invalid_input"),
        (wish(own, target="/srv/../etc"), 400, "bad_files"),
        (RestoreRequest("x", "/srv/new"), 400, "invalid_input"),
    ):
        answer = estate.client.ask("restores/", message)
        assert (answer.status_code, answer.json()["code"]) == (status, code), message
    for _ in range(5):
        assert estate.client.ask("restores/", wish(own)).status_code == 200
    assert estate.client.ask("restores/", wish(own)).json()["code"] == "throttled"
    person = make_person(superadmin=True)
    refuse_asked(asked=AskedRestore.objects.first(), actor=person, now=timezone.now())
    assert estate.client.ask("restores/", wish(own)).status_code == 200
    assert estate.client.ask(f"restores/{AskedRestore.objects.first().pk}/", method="GET").json()["state"] == "refused"


def test_an_agent_lists_its_own_backups_a_page_at_a_time(estate: Estate, monkeypatch: Any) -> None:
    monkeypatch.setattr("backups.agent_work.PAGE", 2)
    own = {str(make_backup(estate.server).pk) for _ in range(5)}
    make_backup(make_server(estate.server.tenant))

    seen: list[str] = []
    after = ""
    while page := estate.client.ask(f"backups/?after={after}", method="GET").json():
        seen += [row["id"] for row in page["backups"]]
        after = page["after"]
        if not after:
            break

    assert (set(seen), len(seen)) == (own, 5)
    assert estate.client.ask("backups/?after=nonsense", method="GET").status_code == 400


class _Failure(msgspec.Struct):
    code: str
    message: str
