"""One session of the mover against a small HTTP vault and a gate in memory: bad bases, earlier attempts, distrust."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pytest

from agents import protocol
from agents.program import heart, mover, sending
from agents.program.session import GateRefusedError
from engine.compression import Compressor
from engine.index import MapEntry
from engine.manifest import build_manifest
from engine.repository import MapReader, open_manifest
from engine.store.base import ObjectRef
from engine.store.http import Grant, GrantedSource
from tests.engine.support import NOW, ImageTarget, Vault, noise
from tests.engine.test_http_store import Grants, Server

_BLOCK = 4096
_IMAGE = noise(100 * _BLOCK)


@dataclass
class Gate(Grants):
    """What the mover sees of the control plane; implements the calls of SessionClient."""

    server: Server
    work: protocol.BackupWork | protocol.RestoreWork
    refused_reads: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        Grants.__init__(self, self.server)
        self.committed: list[protocol.CommitRequest] = []
        self.failures: list[protocol.Failure] = []
        self.restores: list[protocol.RestoreDone] = []

    def open(self) -> protocol.BackupWork | protocol.RestoreWork:
        return self.work

    def heartbeat(self, progress: protocol.Progress) -> protocol.HeartbeatAnswer:
        return protocol.HeartbeatAnswer()

    def grant_gets(self, refs: list[ObjectRef]) -> list[Grant]:
        if any(ref.key in self.refused_reads for ref in refs):
            raise GateRefusedError("not_found", "This session may not read that object.")
        return Grants.grant_gets(self, refs)

    def commit(self, request: protocol.CommitRequest) -> None:
        self.committed.append(request)

    def target_opened(self, opened: protocol.TargetOpened) -> None:
        """The restore would write now."""

    def restore_done(self, done: protocol.RestoreDone) -> None:
        self.restores.append(done)

    def fail(self, failure: protocol.Failure) -> None:
        self.failures.append(failure)


class World:
    def __init__(self, folder: Path, server: Server, phases: list[str]) -> None:
        self.server = server
        self.vault = Vault()
        self.phases = phases
        self._folder = folder
        self._sequence = 0

    def work(self, image: bytes, **changes: Any) -> protocol.BackupWork:
        (self._folder / "disk.img").write_bytes(image)
        self._sequence += 1
        work = protocol.BackupWork(
            disk=protocol.DiskMessage("image", str(self._folder), "disk.img", len(image)),
            tenant="acme",
            domain="server-1",
            source_id="disk-0",
            sequence=self._sequence,
            created_at=NOW,
            id_key=self.vault.domain_keys.id_key,
            map_key=self.vault.domain_keys.map_key,
            tenant_public_key=self.vault.tenant_key.public,
            block_size_bytes=_BLOCK,
            compression_level=1,
            source_facts={},
            trusted_writers=[self.vault.writer_key.public],
        )
        return msgspec.structs.replace(work, **changes)

    def run(self, work: protocol.BackupWork | protocol.RestoreWork, **more: Any) -> Gate:
        gate = Gate(self.server, work, **more)
        mover.run_session(gate, writer_key=self.vault.writer_key, retry_seconds=1.0)
        return gate

    def back_up(self, image: bytes, **changes: Any) -> protocol.CommitRequest:
        gate = self.run(self.work(image, **changes))
        assert gate.failures == []
        return gate.committed[0]

    def restored(self, commit: protocol.CommitRequest) -> bytes:
        self.vault.store = GrantedSource(Grants(self.server))
        manifest = _ref(commit.manifest)
        target = ImageTarget(self.vault.open(manifest).body.size_bytes)
        self.vault.restore(manifest, target)
        return bytes(target.data)

    def previous(self, commit: protocol.CommitRequest) -> str:
        source = GrantedSource(Grants(self.server))
        info = open_manifest(
            manifest_ref=_ref(commit.manifest),
            object_source=source,
            trusted_writers=[self.vault.writer_key.public],
        )
        assert info.body.previous_sha256 is not None
        return info.body.previous_sha256.hex()

    def entries(self, commit: protocol.CommitRequest) -> list[MapEntry]:
        source = GrantedSource(Grants(self.server))
        self.vault.store = source
        info = self.vault.open(_ref(commit.manifest))
        reader = MapReader(manifest=info, object_source=source, map_key=self.vault.domain_keys.map_key)
        return list(reader.leaf(0).values())


def _ref(message: protocol.ObjectMessage) -> ObjectRef:
    return ObjectRef(message.key, message.sha256, message.size_bytes, message.version_id)


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    phases: list[str] = []
    tell = heart.Heart.tell

    def told(self: heart.Heart, progress: protocol.Progress) -> None:
        phases.append(progress.phase)
        tell(self, progress)

    monkeypatch.setattr(heart.Heart, "tell", told)
    monkeypatch.setattr(mover, "HEARTBEAT_SECONDS", 0.05)
    server = Server()
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield World(tmp_path, server, phases)
    server.shutdown()
    server.server_close()


def test_a_good_base_is_used(world: World) -> None:
    first = world.back_up(_IMAGE)

    second = world.back_up(_IMAGE, base=first.manifest)

    assert [message.key for message in second.new_objects] == [second.manifest.key]
    assert set(world.phases) == {"copying"}


@pytest.mark.case("AG-02")
@pytest.mark.parametrize("damage", ["missing", "flipped", "cut"])
def test_a_base_that_cannot_be_read_becomes_a_full_backup_that_says_so(world: World, damage: str) -> None:
    first = world.back_up(_IMAGE)
    name = f"/{first.manifest.key}"
    data = world.server.objects.pop(name)
    if damage == "flipped":
        world.server.objects[name] = data[:50] + bytes([data[50] ^ 1]) + data[51:]
    elif damage == "cut":
        world.server.objects[name] = data[:-1]
    world.phases.clear()

    gate = world.run(world.work(_IMAGE, base=first.manifest))

    assert gate.failures == []
    assert set(world.phases) == {"full: base_unreadable"}
    assert world.previous(gate.committed[0]) == first.manifest.sha256
    assert world.restored(gate.committed[0]) == _IMAGE
    assert gate.committed[0].read_bytes == len(_IMAGE)


def newer(world: World, commit: protocol.CommitRequest) -> protocol.ObjectMessage:
    """The same backup as a later program would have written it, with a feature that this one does not know."""
    world.vault.store = GrantedSource(Grants(world.server))
    info = world.vault.open(_ref(commit.manifest))
    body = msgspec.structs.replace(info.body, required_features=[*info.body.required_features, "time-travel"])
    data = build_manifest(
        body,
        root=info.root,
        source_facts={},
        map_key=world.vault.domain_keys.map_key,
        writer_key=world.vault.writer_key,
        salt=noise(16),
        compressor=Compressor(1),
    )
    sha256 = hashlib.sha256(data).hexdigest()
    key = commit.manifest.key.replace(commit.manifest.sha256, sha256)
    world.server.objects[f"/{key}"] = data
    return protocol.ObjectMessage(key, sha256, len(data), commit.manifest.version_id)


@pytest.mark.case("AG-07")
def test_a_base_of_a_newer_program_is_not_guessed_at_and_costs_a_full_backup(world: World) -> None:
    base = newer(world, world.back_up(_IMAGE))
    world.phases.clear()

    gate = world.run(world.work(_IMAGE, base=base))

    assert gate.failures == [] and set(world.phases) == {"full: base_unreadable"}
    assert gate.committed[0].read_bytes == len(_IMAGE)
    assert world.restored(gate.committed[0]) == _IMAGE


@pytest.mark.case("AG-07")
def test_a_backup_of_a_newer_program_is_refused_in_words_and_nothing_is_written(world: World) -> None:
    commit = world.back_up(_IMAGE)
    old = noise(len(_IMAGE), "what is on the disk now")
    disk = world.work(old).disk

    def restored(manifest: protocol.ObjectMessage) -> Gate:
        world.vault.store = GrantedSource(Grants(world.server))
        keys = world.vault.keys_for(_ref(commit.manifest))
        work = protocol.RestoreWork(
            disk=disk,
            tenant="acme",
            domain="server-1",
            manifest=manifest,
            id_key=keys.domain.id_key,
            map_key=keys.domain.map_key,
            data_keys={session.hex(): key for session, key in keys.data_keys.items()},
            trusted_writers=[world.vault.writer_key.public],
        )
        return world.run(work)

    refused = restored(newer(world, commit))

    [failure] = refused.failures
    assert (failure.code, failure.permanent) == ("unknown_feature", True) and "time-travel" in failure.message
    assert Path(disk.storage_path, disk.path).read_bytes() == old and refused.restores == []
    # The same order with what this program knows.
    assert restored(commit.manifest).failures == []
    assert Path(disk.storage_path, disk.path).read_bytes() == _IMAGE


def test_a_base_that_does_not_fit_becomes_a_full_backup(world: World) -> None:
    first = world.back_up(_IMAGE, block_size_bytes=8192)

    second = world.back_up(_IMAGE, base=first.manifest)

    assert world.phases[-1] == "full: base_mismatch"
    assert second.reused_objects == []
    assert world.restored(second) == _IMAGE


@pytest.mark.parametrize("kind", ["m", "i"])
def test_a_base_that_the_gate_does_not_let_it_read_costs_a_fuller_backup_only(world: World, kind: str) -> None:
    first = world.back_up(_IMAGE)
    refused = {message.key for message in first.new_objects if f"/{kind}/" in message.key}

    gate = world.run(world.work(_IMAGE, base=first.manifest), refused_reads=refused)

    assert gate.failures == []
    assert gate.committed[0].read_bytes == len(_IMAGE)
    assert world.restored(gate.committed[0]) == _IMAGE


def test_what_an_earlier_attempt_stored_is_taken_over_and_told(world: World) -> None:
    first = world.back_up(_IMAGE)
    envelope = next(message for message in first.new_objects if "/k/" in message.key)
    packs = [message for message in first.new_objects if "/p/" in message.key]
    attempt = protocol.ResumableMessage(session_id="any", envelope=envelope, packs=packs)

    second = world.back_up(_IMAGE, resumable=[attempt])

    assert {message.key for message in second.resumed_objects} == {envelope.key, *(pack.key for pack in packs)}
    assert not any("/p/" in message.key for message in second.new_objects)
    assert world.restored(second) == _IMAGE


def test_blocks_of_distrusted_objects_are_stored_anew(world: World) -> None:
    first = world.back_up(_IMAGE)
    packs = [message for message in first.new_objects if "/p/" in message.key]

    second = world.back_up(_IMAGE, base=first.manifest, distrusted=[packs[0].sha256])

    assert packs[0].sha256 not in {entry.object_name.hex() for entry in world.entries(second)}
    assert world.restored(second) == _IMAGE


def test_the_bandwidth_of_the_work_is_kept(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int | None] = []
    original = sending.write_disk_backup

    def watched(**arguments: Any) -> Any:
        seen.append(arguments["context"].bandwidth_bytes_per_second)
        return original(**arguments)

    monkeypatch.setattr(sending, "write_disk_backup", watched)

    world.back_up(noise(_BLOCK))
    world.back_up(noise(_BLOCK), bandwidth_bytes_per_second=123_456)

    assert seen == [None, 123_456]


def test_messages_of_an_older_control_plane_are_understood() -> None:
    old = {
        "type": "backup",
        "disk": {"driver": "image", "storage_path": "/", "path": "x", "size_bytes": 1},
        "tenant": "a",
        "domain": "b",
        "source_id": "c",
        "sequence": 1,
        "created_at": "2026-01-02T03:04:05Z",
        "id_key": "",
        "map_key": "",
        "tenant_public_key": "",
        "block_size_bytes": 4096,
        "compression_level": 1,
        "source_facts": {},
        "trusted_writers": [],
    }

    decoded = msgspec.convert(old, protocol.Work)

    assert (decoded.resumable, decoded.distrusted, decoded.bandwidth_bytes_per_second) == ([], [], 0)
    assert (decoded.base_point, decoded.kept_points, decoded.new_point, decoded.freeze) == ("", [], "", False)
