"""The mover with file trees and byte streams: the same gate and vault as with disks."""

from __future__ import annotations

import hashlib
import io
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pytest

from agents import protocol
from agents.drivers import registry
from agents.drivers.base import OpenedOutput, OpenedStream, ReadWish, SourceFacts, TargetFacts, WriteWish
from agents.drivers.host import HostDriver, HostSettings
from agents.program import mover
from engine.errors import SourceError
from engine.store.base import ObjectRef
from engine.store.http import GrantedSource
from tests.agents.test_mover import Gate
from tests.engine.chunk_support import snapshot
from tests.engine.support import NOW, Vault, noise
from tests.engine.test_http_store import Grants, Server


class Taps:
    """A driver of streams: what is in `data` comes out, what is restored is in `taken`."""

    name = "taps"
    data = b""
    is_whole = True
    taken: io.BytesIO
    openings = 0
    is_finished = False

    @contextmanager
    def open_streams(self, wish: ReadWish) -> Iterator[Sequence[OpenedStream]]:
        Taps.openings += 1

        def check() -> None:
            if not Taps.is_whole:
                raise SourceError("the dump ended with an error")

        # Neither a file nor seekable: it can be read once only.
        reader, writer = os.pipe()
        threading.Thread(target=_pour, args=(writer, Taps.data), daemon=True).start()
        with os.fdopen(reader, "rb") as stream:
            yield [OpenedStream(stream, SourceFacts(), check)]

    @contextmanager
    def open_output(self, wish: WriteWish) -> Iterator[OpenedOutput]:
        Taps.taken = io.BytesIO()
        Taps.is_finished = False
        yield OpenedOutput(Taps.taken, TargetFacts(), lambda _: setattr(Taps, "is_finished", True))


def _pour(descriptor: int, data: bytes) -> None:
    with suppress(BrokenPipeError), os.fdopen(descriptor, "wb") as pipe:
        pipe.write(data)


@dataclass
class RestoreGate(Gate):
    done: list[protocol.RestoreDone] = field(default_factory=list)
    opened: list[protocol.TargetOpened] = field(default_factory=list)

    def target_opened(self, told: protocol.TargetOpened) -> None:
        self.opened.append(told)

    def restore_done(self, done: protocol.RestoreDone) -> None:
        self.done.append(done)


class World:
    def __init__(self, folder: Path, server: Server) -> None:
        self.server = server
        self.vault = Vault()
        self.folder = folder
        self.tree = folder / "tree"
        self.tree.mkdir()
        self.sequence = 0

    def run(self, work: Any) -> RestoreGate:
        gate = RestoreGate(self.server, work)
        mover.run_session(gate, writer_key=self.vault.writer_key, retry_seconds=1.0)
        return gate

    def back_up(self, driver: str = "filesystem", path: str = "tree", **changes: Any) -> RestoreGate:
        self.sequence += 1
        work = protocol.BackupWork(
            disk=protocol.DiskMessage(driver, str(self.folder), path, 1),
            tenant="acme",
            domain="server-1",
            source_id="disk-0",
            sequence=self.sequence,
            created_at=NOW,
            id_key=self.vault.domain_keys.id_key,
            map_key=self.vault.domain_keys.map_key,
            tenant_public_key=self.vault.tenant_key.public,
            block_size_bytes=65536,
            compression_level=1,
            source_facts={},
            trusted_writers=[self.vault.writer_key.public],
        )
        return self.run(msgspec.structs.replace(work, **changes))

    def restore(self, commit: protocol.CommitRequest, driver: str = "filesystem", **changes: Any) -> RestoreGate:
        self.vault.store = GrantedSource(Grants(self.server))
        manifest = ObjectRef(commit.manifest.key, commit.manifest.sha256, commit.manifest.size_bytes, None)
        keys = self.vault.keys_for(manifest)
        work = protocol.RestoreWork(
            disk=protocol.DiskMessage(driver, str(self.folder), "tree", 1),
            tenant="acme",
            domain="server-1",
            manifest=commit.manifest,
            id_key=keys.domain.id_key,
            map_key=keys.domain.map_key,
            data_keys={session.hex(): key for session, key in keys.data_keys.items()},
            trusted_writers=[self.vault.writer_key.public],
        )
        return self.run(msgspec.structs.replace(work, **changes))


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.setattr(mover, "HEARTBEAT_SECONDS", 0.05)
    monkeypatch.setitem(registry.BUILT_IN, "taps", "tests.agents.test_mover_contents:Taps")  # type: ignore[arg-type]  # a dict
    monkeypatch.setitem(registry.CONTENTS, "taps", "stream")  # type: ignore[arg-type]  # a dict
    monkeypatch.setattr(Taps, "openings", 0)
    monkeypatch.setattr(Taps, "is_whole", True)
    server = Server()
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield World(tmp_path, server)
    server.shutdown()
    server.server_close()


def _fill(tree: Path) -> None:
    for number in range(20):
        folder = tree / f"d{number % 3}"
        folder.mkdir(exist_ok=True)
        (folder / f"f{number}").write_bytes(noise(3000 + number))
    (tree / "cache").mkdir()
    (tree / "cache" / "left.tmp").write_bytes(b"x" * 1000)


def _codes(messages: Sequence[protocol.WarnedMessage]) -> list[str]:
    return [message.code for message in messages]


def test_a_tree_is_backed_up_over_its_base_and_restored_whole_and_in_part(world: World) -> None:
    _fill(world.tree)
    first = world.back_up(excludes=["*.tmp"])
    (world.tree / "d0" / "new").write_bytes(b"new")
    second = world.back_up(excludes=["*.tmp"], base=first.committed[0].manifest, base_files=20)
    expected = snapshot(os.fsencode(world.tree))
    del expected[b"/cache/left.tmp"]

    whole = world.restore(second.committed[0], create=True, folder="back/here")
    part = world.restore(second.committed[0], create=True, folder="part", paths=[b"d0/new"])

    assert (first.failures, second.failures, whole.failures, part.failures) == ([], [], [], [])
    assert _codes(second.committed[0].facts.warnings) == ["not_one_moment"]
    assert snapshot(os.fsencode(world.tree / "back" / "here")) == expected
    assert [path.name for path in (world.tree / "part").rglob("*")] == ["d0", "new"]
    assert whole.done[0].warnings == []


def test_a_base_of_other_content_costs_a_full_backup_and_not_the_backup(world: World) -> None:
    """Of a stream the bytes come only once: it is opened again."""
    _fill(world.tree)
    of_tree = world.back_up().committed[0]
    Taps.data = noise(300_000)

    stream = world.back_up("taps", base=of_tree.manifest)
    tree = world.back_up(base=stream.committed[0].manifest)

    assert Taps.openings == 2
    assert stream.committed[0].facts.full_reason == tree.committed[0].facts.full_reason == "base_mismatch"
    assert stream.failures == tree.failures == []


def test_a_stream_goes_there_and_back_and_only_whole_ones_count(world: World) -> None:
    Taps.data = noise(700_000)
    first = world.back_up("taps").committed[0]
    Taps.data = Taps.data[:300_000] + b"inserted" + Taps.data[300_000:]
    second = world.back_up("taps", base=first.manifest).committed[0]
    Taps.is_whole = False
    third = world.back_up("taps", base=second.manifest)

    restored = world.restore(second, "taps")

    assert second.stored_bytes < first.stored_bytes
    assert hashlib.sha256(Taps.taken.getvalue()).digest() == hashlib.sha256(Taps.data).digest()
    assert (restored.failures, Taps.is_finished, restored.done[0].written_bytes) == ([], True, len(Taps.data))
    assert (third.committed, third.failures[0].code) == ([], "source_error")


def test_a_file_that_is_written_meanwhile_is_named_and_stops_nothing(world: World) -> None:
    _fill(world.tree)
    name = os.fsencode(world.tree) + b"/d1/b\xe4d"
    with open(name, "wb", buffering=0) as file:
        file.write(noise(4_000_000))
        begun, ended = threading.Event(), threading.Event()
        thread = threading.Thread(target=_write_until, args=(file, begun, ended))
        thread.start()
        assert begun.wait(60)
        gate = world.back_up()
        ended.set()
        thread.join()

    [warning] = [one for one in gate.committed[0].facts.warnings if one.code == "files_changed"]
    assert warning.message.startswith("1 name: changed while read")
    assert "d1/b\\xe4d" in warning.message
    assert gate.failures == []


def _write_until(file: Any, begun: threading.Event, ended: threading.Event) -> None:
    while not ended.wait(0.001):
        file.write(b"more")
        begun.set()


def test_damage_is_told_by_file_and_everything_else_is_there(world: World) -> None:
    _fill(world.tree)
    first = world.back_up().committed[0]
    (world.tree / "d2" / "later").write_bytes(noise(50_000))
    second = world.back_up(base=first.manifest).committed[0]
    [pack] = [message.key for message in second.new_objects if "/p/" in message.key]
    del world.server.objects[f"/{pack}"]

    gate = world.restore(second, create=True, folder="back")

    [failure] = gate.failures
    assert (failure.code, failure.is_whole_but_damage) == ("damaged", True)
    assert failure.warnings[0].message.startswith("d2/later: zeros in place of 32961 bytes at 0, ")
    restored = world.tree / "back" / "d2" / "f5"
    assert restored.read_bytes() == (world.tree / "d2" / "f5").read_bytes()
    assert gate.done == []


def test_on_a_whole_server_no_order_removes_what_the_backup_does_not_have(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    _fill(world.tree)
    saved = world.back_up().committed[0]
    (world.tree / "own").write_bytes(b"own")
    settings = HostSettings(root=str(world.tree), work=world.folder / "work")
    monkeypatch.setattr(HostDriver, "configured", settings)

    refused = world.restore(saved, driver="host", differential=True, delete_extra=True)
    allowed = world.restore(saved, driver="host", differential=True)

    assert ([failure.code for failure in refused.failures], refused.opened) == (["not_exact"], [])
    assert (allowed.failures, (world.tree / "own").exists()) == ([], True)


@pytest.mark.parametrize("left", ["nothing", "lost+found", "excluded"])
def test_a_tree_without_files_is_refused_where_there_were_some(world: World, left: str) -> None:
    if left == "lost+found":
        (world.tree / "lost+found").mkdir()
    elif left == "excluded":
        (world.tree / "x.tmp").write_bytes(b"x")

    refused = world.back_up(base_files=7, excludes=["*.tmp"])
    allowed = world.back_up(excludes=["*.tmp"])

    assert (refused.failures[0].code, refused.committed) == ("tree_empty", [])
    assert "has 7" in refused.failures[0].message
    assert len(allowed.committed) == 1
