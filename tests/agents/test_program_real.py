"""The agent program against the real control plane: the same messages and signatures, no stand-in."""

from __future__ import annotations

import base64
import os
import time
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import msgspec
import pytest
from django.test import Client
from django.utils import timezone

from agents.agent_messages import EnrolRequest, RestoreRequest
from agents.answer_signing import HEADER, is_answer_signed
from agents.enrolment import make_token
from agents.models import Agent as AgentRow
from agents.models import WriterKey
from agents.principals import revoke_agent
from agents.program.agent import cli, commands, enrolling, rotating
from agents.program.agent.control import ControlClient, Reply
from agents.program.agent.errors import NotTrustedError, RefusedError
from agents.program.agent.facts import host_facts
from agents.program.agent.identity import Identity, load_identity, request_key, save_identity, writer_key
from agents.program.agent.loop import Agent, Surroundings
from agents.program.agent.memory import ControlClock, load_memory
from agents.program.agent.places import Places, Settings
from agents.signing import read_header, sign_request
from backups.asked_restores import confirm_restore
from backups.models import AskedRestore, Backup, Job
from backups.opening import trusted_writers
from backups.writer_keys import writer_keys_of
from definitions.models import Definition
from tests.agents import agent_worlds
from tests.agents.agent_client import HOST
from tests.agents.agent_worlds import bare_server
from tests.agents.test_program_loop import Mover
from tests.factories import make_backup, make_person, make_vault
from vaults.models import Domain, StoredObject

pytestmark = [pytest.mark.django_db, pytest.mark.urls("tests.agents.both_urls")]
URL = "https://backup.example.com"


def way(method: str, path: str, headers: dict[str, str], body: bytes) -> Reply:
    more = {"HTTP_AUTHORIZATION": headers["Authorization"]} if "Authorization" in headers else {}
    answer = Client().generic(method, path, body, content_type="application/json", **more)
    return Reply(answer.status_code, answer.headers.get(HEADER, ""), answer.content)


@pytest.mark.case("AG-12")
def test_the_answer_to_another_agent_is_not_read(tmp_path: Path) -> None:
    """Who sits between two agents, one of them his own, puts its answers under the other's requests."""
    (ours, us), (theirs, them) = enrolled(tmp_path / "a"), enrolled(tmp_path / "b")

    def between(method: str, path: str, headers: dict[str, str], body: bytes) -> Reply:
        proof = read_header(headers["Authorization"])
        header = sign_request(
            private_key=request_key(theirs).private,
            agent_id=them.agent_id,
            method=method,
            path=path,
            body=body,
            time_seconds=proof.time_seconds,
            nonce=base64.urlsafe_b64decode(proof.nonce + "=="),
        )
        return way(method, path, {"Authorization": header}, body)

    clock = ControlClock(None, wall=lambda: timezone.now().timestamp())
    with pytest.raises(NotTrustedError):
        ControlClient(us, request_key(ours), clock, way=between).backups()
    assert ControlClient(us, request_key(ours), clock, way=way).backups().backups == []


@pytest.mark.case("AG-12")
@pytest.mark.parametrize("verb", ["rotate", "unenrol"])
def test_nobody_has_a_success_signed_for_another_agents_request(tmp_path: Path, verb: str) -> None:
    """Who sits between writes the agent's name and nonce into a request of his own, and enrols with his own token."""
    places, us = enrolled(tmp_path)
    key = request_key(places).private
    _, token = make_token(server=bare_server(name="his"), actor=None, now=timezone.now())
    other = EnrolRequest(token.split(".")[1], b"k" * 32, b"w" * 32, HOST, "1")
    seen: list[Reply] = []

    def between(path: str, body: bytes, header: str) -> Reply:
        reply = way("POST", path, {"Authorization": header}, body)
        seen.append(reply)
        name = read_header(header).name
        told = {"header": reply.signature, "status": reply.status, "body": reply.body}
        assert not is_answer_signed(us.control_key, request=name, **told)
        return reply

    def enrols(method: str, path: str, headers: dict[str, str], body: bytes) -> Reply:
        return between("/agent/v1/enrol/", msgspec.json.encode(other), headers["Authorization"])

    def spoils(method: str, path: str, headers: dict[str, str], body: bytes) -> Reply:
        return between(path, body + b" ", headers["Authorization"])

    clock = ControlClock(None, wall=lambda: timezone.now().timestamp())
    for how, expected, status in ((enrols, NotTrustedError, 200), (spoils, RefusedError, 401)):
        client = ControlClient(us, request_key(places), clock, way=how)
        with pytest.raises(expected):
            rotating.rotate(places, client) if verb == "rotate" else client.unenrol()
        assert seen.pop().status == status
    # What nobody proved is refused under a name of its own: it can never be read as a success.
    assert request_key(places).private == key and AgentRow.objects.get(pk=us.agent_id).status == "enrolled"


def test_pins_of_the_installation_reach_the_program_and_go_again(tmp_path: Path, settings: Any) -> None:
    plain, pin = settings.CONFIG, bytes(range(32))
    text = f"sha256//{base64.b64encode(pin).decode()}, sha256//{base64.b64encode(bytes(32)).decode()}"
    settings.CONFIG = plain.model_copy(update={"tls_pins": text})
    places, identity = enrolled(tmp_path)
    assert identity.tls_pins == [pin, bytes(32)]
    agent = agent_of(places, [])
    agent.step()
    assert agent.policy is not None and agent.policy.tls_pins == identity.tls_pins and not agent.wants_restart

    settings.CONFIG = plain
    AgentRow.objects.update(policy_checked_at=None)
    agent.poll_now()
    agent.step()
    assert agent.wants_restart and load_identity(places).tls_pins == []
    # Killed between the two files: the policy that was kept says it at the next start.
    save_identity(places, identity)
    agent = agent_of(places, [])
    assert agent.wants_restart and load_identity(places).tls_pins == []


@pytest.mark.case("AG-14")
def test_a_server_that_leaves_keeps_no_key_and_the_vault_keeps_its_backup(tmp_path: Path) -> None:
    places, identity = enrolled(tmp_path / "home")
    row = AgentRow.objects.get()
    backup = make_backup(row.server)
    domain = backup.manifest.domain

    def in_vault() -> list[list[Any]]:
        return [list(kind.objects.order_by("pk").values()) for kind in (Backup, StoredObject, Domain)]

    kept = in_vault()
    trusted = bytes(writer_key(places).public)
    secrets = [request_key(places).private, writer_key(places).private]
    files = [path for path in (places.state / "keys").rglob("*") if path.is_file()]
    # A second name shows what becomes of the bytes themselves when the first one is gone.
    for number, path in enumerate(files):
        os.link(path, tmp_path / f"disk-{number}")
    disk = [tmp_path / f"disk-{number}" for number in range(len(files))]
    before = [path.read_bytes() for path in disk]

    client = ControlClient(identity, request_key(places), ControlClock(None, wall=lambda: time.time()), way=way)
    assert enrolling.unenrol(places, client, purge=True) == ""

    assert len(files) == len(secrets) == 2 and not any(path.exists() for path in files)
    assert [path.read_bytes() != old for path, old in zip(disk, before, strict=True)] == [True, True]
    assert not any(secret in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file() for secret in secrets)
    row.refresh_from_db()
    assert row.status == "revoked" and not Job.objects.exists()
    assert kept == [
        list(rows.order_by("pk").values()) for rows in (Backup.objects, StoredObject.objects, Domain.objects)
    ]
    # Who restores it still takes its signature for that of the server's agent.
    assert trusted in {bytes(key.public_key) for key in writer_keys_of(domain)}


def enrolled(folder: Path) -> tuple[Places, Identity]:
    server = bare_server()
    _, token = make_token(server=server, actor=None, now=timezone.now())
    places = Places.of(str(folder))
    identity = enrolling.enrol(places, Settings(), token=token, url=URL, version="0.1.0", way=way)
    values: dict[str, Any] = {"name": "daily", "cron": "0 22 * * *", "next_run_at": timezone.now() + timedelta(hours=5)}
    Definition.objects.create(tenant=server.tenant, disk=server.disks.get(), vault=make_vault(server.tenant), **values)
    with pytest.raises(RefusedError):
        enrolling.enrol(Places.of(str(folder / "x")), Settings(), token=token, url=URL, version="0.1.0", way=way)
    return places, identity


def agent_of(places: Places, movers: list[Mover], *, wall_off: float = 0.0) -> Agent:
    identity, memory = load_identity(places), load_memory(places)
    anchor = memory.anchor if not wall_off else None
    clock = ControlClock(anchor, wall=lambda: timezone.now().timestamp() + wall_off)
    control = ControlClient(identity, request_key(places), clock, way=way)

    def start(order: Any) -> Mover:
        movers.append(Mover(order))
        return movers[-1]

    world = Surroundings(host=host_facts, trees=list, start=start, clean=lambda: None, version="0.1.0")
    agent = Agent(places, Settings(), identity, control, clock, memory, world)
    agent.begin()
    return agent


def test_a_program_enrols_polls_begins_and_is_revoked(tmp_path: Path) -> None:
    places, identity = enrolled(tmp_path)
    movers: list[Mover] = []
    # A clock that is two years off, and nothing is known yet.
    agent = agent_of(places, movers, wall_off=-2 * 365 * 86400)
    agent.step()
    row = AgentRow.objects.get()
    assert agent.memory.status == "enrolled" and row.pk == identity.agent_id and row.version == "0.1.0"
    assert agent.policy is not None and agent.policy.number > 0
    assert agent.control.backups().backups == []

    offer = agent.control.start()
    assert agent.control.start() == offer and offer.begins_at_once
    agent.poll_now()
    agent.step()
    [mover] = movers
    assert mover.order.session_token and mover.order.kind == "backup" and mover.order.job == offer.id

    rotating.rotate(places, agent.control)
    assert bytes(AgentRow.objects.get().public_key) == request_key(places).public
    with pytest.raises((RefusedError, NotTrustedError)):
        agent.control.backups()
    with pytest.raises(RefusedError):
        agent_of(places, movers).control.ask_restore(RestoreRequest("no-such-backup", "/srv/x"))

    again = agent_of(places, movers)
    again.step()
    assert again.memory.status == "enrolled"
    # A copy of this machine from before: it counts on from where the copy was made.
    copy = agent_of(places, movers)
    copy._count = 0
    copy.step()
    assert copy.memory.status == "agent_quarantined" and AgentRow.objects.get().status == "quarantined"
    revoke_agent(agent=AgentRow.objects.get(), actor=make_person())
    last = agent_of(places, movers)
    last.step()
    assert last.memory.status == "agent_revoked" and last.waiting == {}


def test_the_command_takes_the_backup_of_another_server_of_its_tenant_and_of_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    places, identity = enrolled(tmp_path)
    server = AgentRow.objects.get(pk=identity.agent_id).server
    ours, stranger = agent_worlds.enrolled(server.tenant, name="web02"), agent_worlds.enrolled(name="theirs")
    theirs, strange = (make_backup(one.server, content="tree") for one in (ours, stranger))
    key = WriterKey.objects.create(agent=ours.agent, public_key=b"2" * 32, added_at=timezone.now())
    clock = ControlClock(None, wall=lambda: timezone.now().timestamp())
    client = ControlClient(identity, request_key(places), clock, way=way)
    monkeypatch.setattr(commands, "_control", lambda *_: client)
    carried: list[tuple[str, str]] = []

    def carry_out(places: Places, settings: Settings, job: str, kind: str, options: Any, *, wait: bool) -> int:
        carried.append((job, kind))
        return 0

    def somebody_confirms(seconds: float) -> None:
        row, person = AskedRestore.objects.get(), make_person(administers=[server.tenant])
        confirm_restore(asked=row, code=row.code, actor=person, now=timezone.now())

    monkeypatch.setattr(commands, "carry_out", carry_out)
    monkeypatch.setattr(commands, "_ASK_SECONDS", 0.0)
    monkeypatch.setattr(commands.time, "sleep", somebody_confirms)

    def restore(backup: object) -> tuple[int, str]:
        code = cli.main(["--home", str(tmp_path), "restore", str(backup), "--to", "/srv/restored"])
        return code, capsys.readouterr().err

    # Somebody else's is as if it were not there, to the last letter.
    answers = {restore(backup) for backup in (strange.pk, uuid4())}
    assert answers == {(5, "backupsite-agent: There is no such backup of this server or its tenant.\n")}
    assert not AskedRestore.objects.exists()
    # Nor does its name say that it is there.
    for name in (strange.name, "no-such"):
        code, said = restore(name)
        assert code == 2 and f"There is no backup {name!r} of this server" in said

    code, said = restore(theirs.pk)
    job = Job.objects.get()
    assert code == 0 and carried == [(str(job.pk), "restore")] and f"Restore {theirs.pk} to /srv/restored" in said
    assert (job.disk.server, job.backup, job.backup.server) == (server, theirs, ours.server)
    # The other server's agent wrote it: the mover here is told to trust its key.
    assert bytes(key.public_key) in trusted_writers(theirs.manifest.domain)
