"""On which occasions people are told of devices, agents, restores, limits and a broken audit; and that all of the
table's events have one."""

from __future__ import annotations

import ast
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings as django_settings
from django.core.cache import cache
from django.test import Client
from django.utils import timezone
from time_machine import travel

from agents.models import Agent, Release
from agents.principals import (
    SILENT_AFTER,
    approve_agent,
    notice_silent_agents,
    register_agent,
    revoke_agent,
)
from agents.protocol import PATH_PREFIX
from backups.transitions import claim_job
from definitions.honest_states import State
from engine.crypto import generate_writer_key
from tenants.audit import record
from tenants.audit_heads import check_audit, heads_file
from tenants.models import KnownDevice, NoticeEvent, OutboxMessage, Person, Quota, Subscription, Tenant, Webhook
from tenants.notices.events import CATALOGUE, ON_DEMAND, to_subscribe
from tenants.sign_in.devices import MOST_DEVICES, digest_of
from tests.agents.agent_client import AgentClient
from tests.factories import (
    a_moment,
    make_backup,
    make_definition,
    make_job,
    make_person,
    make_server,
    make_subscription,
    make_tenant,
    make_webhook,
)

pytestmark = pytest.mark.django_db
NOW = a_moment("2026-03-02 10:00")
FIREFOX = "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0"


@pytest.fixture
def tenant() -> Tenant:
    return make_tenant()


def a_person(name: str, **rights: Any) -> Person:
    """With an address."""
    person = make_person(name, **rights)
    Person.objects.filter(pk=person.pk).update(email=f"{name}@example.com")
    person.refresh_from_db()
    return person


def told() -> list[str]:
    """The codes of the events that somebody was told of, in order."""
    return list(NoticeEvent.objects.order_by("pk").values_list("code", flat=True))


def receivers_of(event: str) -> set[str]:
    rows = OutboxMessage.objects.filter(event__code=event).select_related("webhook", "subscription__person", "person")
    return {str(row.webhook or row.person or row.subscription) for row in rows}


# --- the table and the calls ------------------------------------------------------------------------------------------


def test_every_event_that_is_offered_is_published_somewhere() -> None:
    root = Path(django_settings.BASE_DIR)
    published: set[str] = set()
    for package in ("tenants", "vaults", "agents", "definitions", "backups"):
        for file in (root / package).rglob("*.py"):
            text = file.read_text()
            if "publish(" not in text or file.name == "events.py":
                continue
            constants = {node.value for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Constant)}
            published |= constants & set(CATALOGUE)
    # Told by the name of the state: backups.telling.tell_of_standing.
    published |= {f"backup.{state}" for state in State} & set(CATALOGUE)

    assert published == set(CATALOGUE) - ON_DEMAND == set(to_subscribe(by_webhook=False))


# --- devices ----------------------------------------------------------------------------------------------------------


def sign_in(agent: str = FIREFOX, address: str = "192.0.2.7") -> None:
    cache.clear()
    client = Client(HTTP_USER_AGENT=agent, REMOTE_ADDR=address)
    answer = client.post("/login/", {"username": "anna", "password": "a-long-password-1"})
    assert answer.status_code == 302


@pytest.fixture
def anna(tenant: Tenant, settings: Any) -> Person:
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
    return a_person("anna", password="a-long-password-1", administers=[tenant])


def test_a_new_device_is_told_to_the_person_and_to_tenants_that_asked(anna: Person, tenant: Tenant) -> None:
    make_webhook(tenant, label="asked", events=["sign_in.new_device"])
    make_webhook(tenant, label="did not", events=["backup.ok"])
    make_webhook(make_tenant(), label="stranger")
    make_webhook(None, label="installation")
    make_subscription(person=anna)
    sign_in()
    assert told() == []  # the very first sign-in: nothing to compare it with

    sign_in()
    sign_in(FIREFOX.replace("128", "129"))
    assert told() == []

    sign_in(address="198.51.100.1")
    sign_in("curl/8", "198.51.100.1")

    assert receivers_of("sign_in.new_device") == {"anna", "asked", "installation"}
    rows = OutboxMessage.objects.filter(person=anna)
    assert sorted(row.event.facts["agent"] for row in rows) == [FIREFOX, "curl/8"]
    # Twice something new, each told once to each of the three.
    assert OutboxMessage.objects.count() == 6


def test_a_sign_in_by_the_api_counts_as_well(anna: Person) -> None:
    sign_in()
    Person.objects.filter(pk=anna.pk).update(is_superuser=False)
    anna.tenantuserpermission_set.all().delete()

    body = {"username": "anna", "password": "a-long-password-1"}
    Client(HTTP_USER_AGENT="es/1").post("/api/accounts/login", body, content_type="application/json")

    assert told() == ["sign_in.new_device"]


def test_devices_are_kept_as_hashes_and_not_without_end(anna: Person) -> None:
    sign_in()
    KnownDevice.objects.bulk_create(
        KnownDevice(person=anna, digest=f"{number}", seen_at=timezone.now() - timedelta(days=2))
        for number in range(MOST_DEVICES)
    )
    sign_in("curl/8")

    kept = set(KnownDevice.objects.values_list("digest", flat=True))
    assert len(kept) == MOST_DEVICES
    assert {digest_of(FIREFOX, "192.0.2.7"), digest_of("curl/9.1", "192.0.2.7")} <= kept
    assert digest_of("a", "2001:db8::1") == digest_of("a", "2001:db8::ffff") != digest_of("a", "2001:db8:0:1::1")


# --- agents -----------------------------------------------------------------------------------------------------------


def test_an_agent_is_told_of_when_it_is_enrolled_and_not_while_it_waits(tenant: Tenant) -> None:
    make_webhook(tenant)
    root = make_person(superadmin=True)
    waits = register_agent(
        server=make_server(tenant), public_key=generate_writer_key().public, actor=root, pending=True
    )
    assert told() == []

    approve_agent(agent=waits, actor=root)
    register_agent(server=make_server(tenant), public_key=generate_writer_key().public, actor=root)

    assert told() == ["agent.enrolled", "agent.enrolled"]


@pytest.mark.urls("backupsite.gate_urls")
def test_a_silent_agent_is_told_of_once_and_when_it_is_back(tenant: Tenant) -> None:
    server = make_server(tenant)
    owner = a_person("owner", owns=[server])
    make_subscription(person=owner, events=["agent.silent"])
    key = generate_writer_key()
    agent = register_agent(server=server, public_key=key.public, actor=None)
    now = timezone.now()
    Agent.objects.update(last_seen_at=now - SILENT_AFTER + timedelta(seconds=1))
    assert notice_silent_agents(now=now) == 0

    assert notice_silent_agents(now=now + timedelta(seconds=1)) == 1
    assert notice_silent_agents(now=now + timedelta(hours=9)) == 0
    client = AgentClient(agent, key.private)
    for _ in range(2):
        client.polled()
    assert notice_silent_agents(now=now + timedelta(minutes=1)) == 0

    assert told() == ["agent.silent", "agent.back"]
    assert receivers_of("agent.back") == {"owner"}


def test_one_that_never_spoke_is_silent_and_a_revoked_or_pending_one_is_not(tenant: Tenant) -> None:
    make_webhook(tenant)
    never, revoked = (
        register_agent(server=make_server(tenant), public_key=generate_writer_key().public, actor=None) for _ in "12"
    )
    register_agent(server=make_server(tenant), public_key=generate_writer_key().public, actor=None, pending=True)
    revoke_agent(agent=revoked, actor=None)
    gone = make_server(make_tenant())
    make_webhook(gone.tenant)
    register_agent(server=gone, public_key=generate_writer_key().public, actor=None)
    Tenant.objects.filter(pk=gone.tenant_id).update(status=Tenant.Status.DELETING)

    assert notice_silent_agents(now=timezone.now() + SILENT_AFTER) == 1
    assert Agent.objects.get(silent_since__isnull=False).pk == never.pk


@pytest.mark.case("AG-11")
@pytest.mark.urls("backupsite.gate_urls")
def test_an_agent_that_trusts_nobody_is_told_of_once(tenant: Tenant) -> None:
    server = make_server(tenant)
    owner = a_person("owner", owns=[server])
    make_subscription(person=owner, events=["agent.trouble"])
    make_webhook(tenant, label="hook")
    key = generate_writer_key()
    client = AgentClient(register_agent(server=server, public_key=key.public, actor=None), key.private)
    OutboxMessage.objects.all().delete()
    NoticeEvent.objects.all().delete()

    # What is a job's own trouble is not told again; what comes and goes is told of once a day.
    for code in ("", "unreachable", "policy_refused", "policy_refused", "", "policy_refused", "not_trusted"):
        client.polled(problem_code=code, problem=f"It says {code}.")

    assert told() == ["agent.trouble"] * 2
    assert [event.facts["code"] for event in NoticeEvent.objects.order_by("pk")] == ["policy_refused", "not_trusted"]
    assert NoticeEvent.objects.first().facts["message"] == "It says policy_refused."
    assert receivers_of("agent.trouble") == {"owner", "hook"}
    with travel(timezone.now() + timedelta(hours=25)):
        client.polled()
        client.polled(problem_code="policy_refused", problem="It says so again.")
    assert told() == ["agent.trouble"] * 3


@pytest.mark.urls("backupsite.gate_urls")
@pytest.mark.parametrize(
    ("code", "message"),
    [("update_failed", "No room."), ("", "It went back from release 7, or did not take it in time.")],
)
def test_an_update_that_failed_is_told_of_once(tenant: Tenant, code: str, message: str) -> None:
    server = make_server(tenant)
    make_webhook(tenant, events=["agent.trouble"])
    key = generate_writer_key()
    client = AgentClient(register_agent(server=server, public_key=key.public, actor=None), key.private)
    release = Release.objects.create(number=7, version="1.7", file="a", manifest=b"{}", signature=b"s")
    Release.objects.update(state="offered", percent=100)

    client.polled(version="1.6")
    assert Agent.objects.get().release == release
    client.polled(version="1.6" if code else "1.7")
    assert told() == []
    for _ in range(2):
        client.polled(version="1.6", problem_code=code, problem="No room." if code else "")

    assert told() == ["agent.trouble"]
    assert NoticeEvent.objects.get().facts == {"server": server.name, "code": "update_failed", "message": message}


# --- restores ---------------------------------------------------------------------------------------------------------


def test_of_a_restore_onto_another_server_the_owner_of_the_source_is_told_and_of_a_takeover_too(tenant: Tenant) -> None:
    source, target = make_server(tenant), make_server(tenant)
    for name, server in (("of_source", source), ("of_target", target)):
        make_subscription(person=a_person(name, owns=[server]))
    make_webhook(tenant, label="hook")
    job = make_job(target, kind="restore", backup=make_backup(source))

    assert claim_job(job_id=job.pk, now=NOW) is not None
    assert receivers_of("restore.started") == {"of_source", "of_target", "hook"}
    assert OutboxMessage.objects.count() == 3
    secret = NoticeEvent.objects.get(messages__subscription__person__username="of_source")
    assert target.name not in f"{secret.facts}{secret.subject_name}"

    later = NOW + timedelta(hours=1)
    assert claim_job(job_id=job.pk, now=later) is not None
    again = NoticeEvent.objects.filter(at=later)
    assert [event.facts["code"] for event in again] == ["taken_over", "taken_over"]


# --- limits and the audit ---------------------------------------------------------------------------------------------


def test_a_hard_limit_that_a_worker_meets_is_told_of(tenant: Tenant, settings: Any) -> None:
    settings.ROOT_URLCONF = "backupsite.gate_urls"
    make_webhook(tenant, events=["quota.hard"])
    Quota.objects.create(tenant=tenant, kind="bytes", hard=0)
    server = make_server(tenant)
    backup = make_backup(server, status="pending")
    job = make_job(server, definition=make_definition(server), backup=backup)
    claim = claim_job(job_id=job.pk, now=timezone.now())
    assert claim is not None

    headers = {"Authorization": f"Bearer {claim.token}"}
    answers = [_open(headers) for _ in range(2)]

    assert [answer["code"] for answer in answers] == ["quota_exceeded"] * 2
    assert told() == ["quota.hard"]


def test_a_broken_audit_is_told_to_every_super_admin_and_to_nobody_else(
    tenant: Tenant, settings: Any, tmp_path: Path
) -> None:
    settings.CONFIG = settings.CONFIG.model_copy(update={"data": tmp_path})
    for name, changes in (("root", {"superadmin": True}), ("admin", {"administers": [tenant]})):
        make_subscription(person=a_person(name, **changes))
    a_person("quiet_root", superadmin=True)
    a_person("gone", superadmin=True, active=False)
    make_webhook(tenant, label="of the tenant")
    make_webhook(None, label="installation")
    record(action="test.done")
    check_audit(now=NOW)
    assert told() == []

    heads_file().write_text(f"2026-01-01T00:00:00+00:00 99 {'a' * 64}\n")
    check_audit(now=NOW)

    assert receivers_of("audit.broken") == {"root", "quiet_root", "installation"}
    assert OutboxMessage.objects.count() == 3
    assert "audit.broken" not in to_subscribe(by_webhook=True, by_super_admin=False)
    assert Webhook.objects.count() == Subscription.objects.count() == 2


def _open(headers: dict[str, str]) -> Any:
    return Client().post(f"{PATH_PREFIX}open", b"{}", content_type="application/json", headers=headers).json()
