"""One session that serves a backup: how it ends, and that a control plane that is gone does not leave it there."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agents import protocol
from agents.drivers import holding
from agents.drivers.holding import held_server
from agents.drivers.nbd import NbdClient
from agents.program import mover, serving
from agents.program.session import GateUnreachableError
from engine.store.base import ObjectRef
from engine.store.http import GrantedSource
from tests.agents.test_mover import Gate, World, world
from tests.engine.support import noise
from tests.engine.test_http_store import Grants

__all__ = ["world"]
_IMAGE = noise(3 * 4096)


class ServingGate(Gate):
    """`read` is what is read at the socket, as soon as it is told of."""

    work: Any
    is_silent = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self.read = b""
        self.socket = ""
        self.done: list[protocol.ServeDone] = []

    def heartbeat(self, progress: protocol.Progress) -> protocol.HeartbeatAnswer:
        if self.is_silent:
            raise GateUnreachableError("gate_unreachable", "The control plane does not answer.")
        return super().heartbeat(progress)

    def serving(self, opened: protocol.Serving) -> None:
        self.socket = opened.socket
        client = NbdClient.connect(opened.socket, export="")
        self.read = client.read(0, client.size_bytes)
        client.close()

    def serve_done(self, done: protocol.ServeDone) -> None:
        self.done.append(done)


@pytest.fixture
def gate(world: World, monkeypatch: pytest.MonkeyPatch) -> Iterator[ServingGate]:
    # Not the test's own folder: paths of sockets are short.
    folder = tempfile.mkdtemp(prefix="bs-serve-")
    monkeypatch.setattr(holding, "_default_folder", lambda: folder)
    monkeypatch.setattr(serving, "_LOOK_SECONDS", 0.05)
    commit = world.back_up(_IMAGE)
    world.vault.store = GrantedSource(Grants(world.server))
    manifest = ObjectRef(**{name: getattr(commit.manifest, name) for name in ObjectRef.__slots__})
    keys = world.vault.keys_for(manifest)
    reads = protocol.RestoreWork(
        disk=protocol.DiskMessage("", "", "", len(_IMAGE)),
        tenant="acme",
        domain="server-1",
        manifest=commit.manifest,
        id_key=keys.domain.id_key,
        map_key=keys.domain.map_key,
        data_keys={session.hex(): key for session, key in keys.data_keys.items()},
        trusted_writers=[world.vault.writer_key.public],
    )
    yield ServingGate(world.server, protocol.ServeWork(reads, "serve-test", 0))
    # Nothing is left in it.
    Path(folder).rmdir()


def run(gate: ServingGate, world: World) -> None:
    mover.run_session(gate, writer_key=world.vault.writer_key, retry_seconds=1.0)
    assert not Path(gate.socket).exists()


def test_it_ends_with_its_time_and_says_what_was_read(gate: ServingGate, world: World) -> None:
    run(gate, world)

    assert gate.read == _IMAGE
    assert [(done.read_bytes, done.failed_reads) for done in gate.done] == [(len(_IMAGE), 0)]


def test_it_waits_for_the_process_that_lost_its_lease(gate: ServingGate, world: World) -> None:
    former = held_server("serve-test")
    former.__enter__()
    threading.Timer(0.3, former.__exit__, (None, None, None)).start()

    run(gate, world)

    assert gate.read == _IMAGE and gate.failures == []


def test_it_ends_when_the_control_plane_is_silent(
    gate: ServingGate, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving, "_SILENCE_SECONDS", 0.3)
    gate.work = protocol.ServeWork(gate.work.reads, "serve-test", 3600)
    gate.is_silent = True

    run(gate, world)

    assert [failure.code for failure in gate.failures] == ["gate_unreachable"]
