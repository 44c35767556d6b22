"""Connections to the gate are kept; no call is sent twice that may not be, and each new connection shows its key."""

from __future__ import annotations

import http.client
import socket
import socketserver
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from agents import protocol
from agents.program import connections
from agents.program.agent.control import way_to
from agents.program.agent.moving import AgentSession, MoveOrder
from agents.program.agent.places import Settings
from agents.program.agent.tls import read_url
from agents.program.connections import IDLE_SECONDS, Call, KeptConnections
from agents.program.session import GateError, SessionClient
from tests.agents.stand_in import ControlPlane
from tests.agents.test_program_trust import Authority

BEAT = protocol.Progress("reading")
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
CLOSING = OK.replace(b"OK\r\n", b"OK\r\nConnection: close\r\n")
HALF = OK.replace(b"2\r\n", b"9\r\n")
DROP = b""


class Scripted(socketserver.ThreadingTCPServer):
    """Gives the next answer of its script to each request; what is no whole answer closes the connection."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.script: list[bytes] = []
        self.connections = self.received = 0
        self.socket_of_last: socket.socket | None = None
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    def connect(self) -> http.client.HTTPConnection:
        connection = http.client.HTTPConnection(*self.server_address[:2], timeout=10)  # type: ignore[arg-type]  # a pair of IPv4
        connection.connect()
        return connection


class _Handler(socketserver.StreamRequestHandler):
    server: Scripted

    def handle(self) -> None:
        self.server.connections += 1
        self.server.socket_of_last = self.connection
        while self.rfile.readline():
            while self.rfile.readline().strip():
                pass
            self.server.received += 1
            answer = self.server.script.pop(0)
            self.wfile.write(answer)
            if answer != OK:
                return


@pytest.fixture
def server() -> Iterator[Scripted]:
    with Scripted() as server:
        yield server
        server.shutdown()


def call(*, may_repeat: bool) -> Call:
    return Call("POST", "/x", b"", {}, may_repeat=may_repeat)


# What the server does with each request, whether calls may be repeated, how two calls end, connections, requests.
CASES = {
    "kept": ([OK, OK], False, ["{}", "{}"], 1, 2),
    "the server says that it closes": ([CLOSING, OK], False, ["{}", "{}"], 2, 2),
    "broken, may be repeated": ([OK, DROP, OK], True, ["{}", "{}"], 2, 3),
    "broken, may not be repeated": ([OK, DROP, OK], False, ["{}", "RemoteDisconnected"], 1, 2),
    "broken twice": ([OK, DROP, DROP, OK], True, ["{}", "RemoteDisconnected"], 2, 3),
    "a new one is broken": ([DROP, OK], True, ["RemoteDisconnected", "{}"], 2, 2),
    "half an answer": ([OK, HALF, OK], True, ["{}", "IncompleteRead"], 1, 2),
}


@pytest.mark.parametrize("case", CASES)
def test_a_call_is_sent_again_only_where_that_does_no_harm(server: Scripted, case: str) -> None:
    script, may_repeat, ends, connections, received = CASES[case]
    server.script = list(script)
    kept = KeptConnections(server.connect)

    def end() -> str:
        try:
            return kept.ask(call(may_repeat=may_repeat), most_bytes=100).content.decode()
        except (OSError, http.client.HTTPException) as error:
            return type(error).__name__

    assert [end(), end()] == ends
    assert (server.connections, server.received) == (connections, received)


def test_a_connection_that_was_closed_or_left_alone_is_never_used_again(server: Scripted) -> None:
    server.script, now = [OK] * 5, [0.0]
    kept = KeptConnections(server.connect, clock=lambda: now[0])
    ask = partial(kept.ask, call(may_repeat=False), most_bytes=100)

    ask()
    now[0] += IDLE_SECONDS
    ask()
    assert server.connections == 1
    now[0] += IDLE_SECONDS + 0.1
    ask()
    assert server.connections == 2
    assert server.socket_of_last is not None
    server.socket_of_last.shutdown(socket.SHUT_RDWR)
    ask()
    assert (server.connections, server.received) == (3, 4)
    # Cut short: what is left in it would be read as the next answer.
    assert kept.ask(call(may_repeat=False), most_bytes=1).content == b"{"
    server.script = [OK]
    ask()
    assert server.connections == 4


@pytest.fixture
def plane() -> Iterator[ControlPlane]:
    plane = ControlPlane().start()
    yield plane
    plane.stop()


def agent_session(plane: ControlPlane, *, pins: list[bytes], ca_file: str = "") -> AgentSession:
    settings = Settings(ca_file=ca_file)
    order = MoveOrder("", "", "job-1", "backup", plane.url, "t", settings, retry_seconds=0.0)
    return AgentSession(order, lambda event: None, pins=pins, control_key=plane.key.public)


@pytest.fixture
def never_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    """However long the test stood still, its connections are not too old to be used."""
    monkeypatch.setattr(connections, "IDLE_SECONDS", 3600.0)


def test_the_threads_of_a_session_share_its_connections(plane: ControlPlane, never_idle: None) -> None:
    session = agent_session(plane, pins=[])
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda _: session.heartbeat(BEAT), range(60)))
    assert len(plane.gate.beats) == 60 and plane.connections <= 3
    plane.hang_up()
    session.heartbeat(BEAT)
    assert len(plane.gate.beats) == 61

    # What the control plane is asked is signed for one use: a poll and the claim after it share a connection too.
    before, way = plane.connections, way_to(read_url(plane.url))
    for _ in range(3):
        assert way("GET", "/vault/none", {}, b"").status == 404
    assert plane.connections == before + 1


def test_a_gate_url_with_a_folder_keeps_it(server: Scripted) -> None:
    server.script = [OK]
    host, port = server.server_address[:2]
    client = SessionClient(gate_url=f"http://{host!s}:{port}/behind/", token="t", retry_seconds=0)

    client.target_opened(protocol.TargetOpened())

    assert client._folder == "/behind" and server.received == 1


@pytest.mark.case("AG-12")
def test_each_new_connection_of_a_session_has_to_show_the_pinned_key(tmp_path: Path, never_idle: None) -> None:
    authority = Authority(tmp_path)
    context, pin = authority.server("control plane")
    authority.server("somebody between")
    plane = ControlPlane().start(tls=context)
    session = agent_session(plane, pins=[pin], ca_file=str(authority.file))
    try:
        session.heartbeat(BEAT)
        session.heartbeat(BEAT)
        assert plane.connections == 1
        # From now on somebody else answers, whom the system trusts; the open connection is still the right one's.
        context.load_cert_chain(tmp_path / "somebody between.pem")
        session.heartbeat(BEAT)
        plane.hang_up()
        with pytest.raises(GateError) as refused:
            session.heartbeat(BEAT)
    finally:
        plane.stop()

    assert refused.value.code == "wrong_tls_key" and len(plane.gate.beats) == 3
