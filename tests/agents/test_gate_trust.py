"""What an agent believes of its session gate: what was signed for this call, and work that is an agent's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from django.conf import settings as django_settings
from django.test import Client

from agents import protocol
from agents.answer_signing import HEADER, NONCE_HEADER, gate_request, is_answer_signed, sign_answer
from agents.program.agent.moving import AgentSession, MoveOrder
from agents.program.agent.places import Settings
from agents.program.session import GateError, GateRefusedError
from engine.crypto import generate_writer_key
from tests.agents.stand_in import ControlPlane

NONCE = "n" * 22
BEAT = protocol.Progress("reading")


@pytest.fixture
def plane() -> Iterator[ControlPlane]:
    plane = ControlPlane().start()
    plane.gate.back_up()
    yield plane
    plane.stop()


def session_of(plane: ControlPlane, *, kind: str = "backup", **changes: Any) -> AgentSession:
    order = MoveOrder(
        config="", state="", job="job-1", kind=kind, gate_url=plane.url, session_token="t", settings=Settings(**changes)
    )
    order = msgspec.structs.replace(order, retry_seconds=0.0)
    return AgentSession(order, lambda event: None, pins=[], control_key=plane.key.public)


@pytest.mark.django_db
@pytest.mark.urls("tests.agents.both_urls")
@pytest.mark.case("AG-12")
def test_the_gate_signs_each_answer_for_one_call_whole() -> None:
    """Also its refusals and those of the framework; to who sends no nonce, a node, it signs nothing."""
    path, body = "/session/v1/heartbeat", b'{"phase": "reading"}'
    key = django_settings.CONFIG.control_public_key_bytes

    def asked(where: str, **headers: str) -> Any:
        told = {"HTTP_AUTHORIZATION": "Bearer no-such-session", **headers}
        return Client().generic("POST", where, body, content_type="application/json", **told)

    for where, expected in ((path, 401), ("/session/v1/nonsense", 404)):
        answer = asked(where, HTTP_BACKUPSITE_NONCE=NONCE)
        assert answer.status_code == expected
        call = {"token": "no-such-session", "nonce": NONCE, "path": where, "body": body}

        def is_for(status: int, content: bytes, answer: Any = answer, call: Any = call, **changes: Any) -> bool:
            name = gate_request(**{**call, **changes})
            assert name is not None
            header = answer.headers[HEADER]
            return is_answer_signed(key, header=header, request=name, status=status, body=content)

        content = answer.content
        assert is_for(expected, content)
        assert not is_for(200, content) and not is_for(expected, content + b" ")
        others = {"token": "another", "nonce": "m" * 22, "path": "/session/v1/open", "body": b"{}"}
        assert not any(is_for(expected, content, **{name: value}) for name, value in others.items())
    assert HEADER not in asked(path).headers
    assert HEADER not in asked(path, HTTP_BACKUPSITE_NONCE="short").headers
    assert NONCE_HEADER.upper().replace("-", "_") == "BACKUPSITE_NONCE"


def _by_another(status: int, content: bytes, signature: str) -> tuple[int, bytes, str]:
    key = generate_writer_key().private
    return status, content, sign_answer(private_key=key, request="any", status=status, body=content)


Between = Callable[[int, bytes, str], tuple[int, bytes, str]]
TAMPERED: dict[str, Between] = {
    "unsigned": lambda status, content, signature: (status, content, ""),
    "another key": _by_another,
    "another body": lambda status, content, signature: (status, content + b" ", signature),
    "a refusal": lambda status, content, signature: (409, content, signature),
    "an unsigned refusal": lambda status, content, signature: (409, b'{"code": "session_ended"}', ""),
}


@pytest.mark.case("AG-12")
@pytest.mark.parametrize("how", [*TAMPERED, "an earlier answer"])
def test_nothing_of_the_gate_is_read_that_was_not_signed_for_this_call(plane: ControlPlane, how: str) -> None:
    session = session_of(plane)
    kept: list[tuple[int, bytes, str]] = []
    plane.between = TAMPERED.get(how) or (lambda *answer: kept.append(answer) or kept[0])
    if how == "an earlier answer":
        session.open()

    with pytest.raises(GateError) as refused:
        session.open()

    assert refused.value.code == "gate_not_trusted" and session.outcome is not None
    assert session.outcome.code == "gate_not_trusted"
    plane.between = None
    assert session.open() == plane.gate.work


def test_a_proxy_that_is_busy_is_asked_again(plane: ControlPlane) -> None:
    answers = iter([(503, b'{"code": "session_ended"}', "")])
    plane.between = lambda *answer: next(answers, answer)
    session = session_of(plane)
    session._retry_seconds = 30.0

    assert session.heartbeat(BEAT) == protocol.HeartbeatAnswer()


def _restore(**changes: Any) -> protocol.RestoreWork:
    values: dict[str, Any] = {"id_key": b"", "map_key": b""}
    manifest = protocol.ObjectMessage("k", "0" * 64, 1)
    values |= {"tenant": "t", "domain": "d", "manifest": manifest, "data_keys": {}, "trusted_writers": []}
    return protocol.RestoreWork(**{"disk": protocol.DiskMessage("host", "", "/", 0), **values, **changes})


def _backup(driver: str) -> protocol.BackupWork:
    plane = ControlPlane()
    plane.gate.back_up(disk=protocol.DiskMessage(driver, "", "/", 0), created_at=datetime(2026, 1, 1, tzinfo=UTC))
    assert isinstance(plane.gate.work, protocol.BackupWork)
    return plane.gate.work


IMAGE = protocol.DiskMessage("image", "/dev", "sda", 0)
PLACE = protocol.CopyPlaceMessage("/srv", "s", "p")
WORKS: list[tuple[str, Any, bool]] = [
    ("backup", _backup("host"), True),
    ("restore", _restore(), True),
    ("backup", _restore(), False),
    ("restore", _backup("host"), False),
    ("backup", _backup("image"), False),
    ("restore", _restore(disk=IMAGE), False),
    ("restore", _restore(defines=True), False),
    ("restore", _restore(attach_to="web01"), False),
    ("restore", protocol.DrillWork(_restore(disk=IMAGE)), False),
    ("drill", protocol.DrillWork(_restore()), False),
    ("serve", protocol.ServeWork(_restore(), "name", 60), False),
    ("backup", protocol.CopyWork(IMAGE, PLACE, "zstd", {}), False),
    ("copy_restore", protocol.CopyRestoreWork(IMAGE, PLACE, "zstd", "0" * 64, 1, 1), False),
    ("backup", protocol.DatasetWork("pool/a", "", "d", "s", "c", []), False),
    ("dataset_restore", protocol.DatasetRestoreWork("pool/a", "1", "pool/b", "", "d", "t"), False),
]


@pytest.mark.case("AG-12")
def test_an_agent_does_the_work_that_it_claimed_and_only_an_agents_own(plane: ControlPlane) -> None:
    for kind, work, is_ours in WORKS:
        plane.gate.work = work
        if is_ours:
            assert session_of(plane, kind=kind).open() == work
            continue
        with pytest.raises(GateRefusedError) as refused:
            session_of(plane, kind=kind).open()
        assert refused.value.code == "work_refused", (kind, work)


def test_a_server_that_allows_no_restores_is_written_to_by_nobody(plane: ControlPlane) -> None:
    plane.gate.work = _restore()
    with pytest.raises(GateRefusedError, match="restores = false"):
        session_of(plane, kind="restore", restores=False).open()
    plane.gate.back_up()
    assert session_of(plane, restores=False).open() == plane.gate.work
