"""A stream or file tree whose backup was cut is taken up again: what is stored is not sent twice."""

from __future__ import annotations

import os
import threading
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from engine.crypto import generate_tenant_key
from engine.errors import EngineError, StoreError
from engine.pack import parse_container
from engine.resume import ResumableSession
from engine.sealing import RecordType, map_sealer
from engine.store.base import ObjectKind, ObjectRef
from engine.stream_pipe import ChunkPipe
from engine.stream_writer import write_stream_backup
from engine.tree_writer import TreeWriteResult
from engine.window import ResumedBlocks
from tests.engine.chunk_support import (
    listed_uses,
    read_stream,
    read_tree,
    snapshot,
    true_uses,
    write_stream,
    write_tree,
)
from tests.engine.support import DOMAIN, TENANT, Vault, kinds, noise

# Twenty packs of about twenty chunks each.
_PACKING = {"pack_size": 8192, "compression_level": None}
_STREAM = noise(100_000)


class _CutSink:
    """Loses the connection for good at its put number `cut_at`, counted from 0."""

    def __init__(self, vault: Vault, cut_at: int) -> None:
        self._vault = vault
        self._cut_at = cut_at
        self._lock = threading.Lock()
        self.asked: list[str] = []

    def put(self, *, key: str, data: bytes, sha256: str) -> ObjectRef:
        with self._lock:
            self.asked.append(key)
            is_cut = len(self.asked) > self._cut_at
        if is_cut:
            raise StoreError("cut", transient=True)
        return self._vault.store.put(key=key, data=data, sha256=sha256)

    def granted(self) -> ResumableSession:
        """What the control plane knows: all that was asked for, in order, whether it was stored or not."""
        sizes = {version.key: len(version.data) for version in self._vault.store.list_versions()}
        refs = [ObjectRef(key, key.rpartition("/")[2], sizes.get(key, 4000)) for key in self.asked]
        envelope = next(ref for ref in refs if "/k/" in ref.key)
        return ResumableSession(envelope, [ref for ref in refs if "/p/" in ref.key])


def _cut(vault: Vault, cut_at: int, write: Any, content: Any, **more: Any) -> ResumableSession:
    sink = _CutSink(vault, cut_at)
    with pytest.raises(StoreError):
        write(vault, content, sink=sink, **_PACKING, **more)
    for thread in threading.enumerate():
        if thread.name.startswith("upload"):
            thread.join(timeout=60)
    return sink.granted()


def _stored_packs(vault: Vault) -> list[str]:
    return [version.key for version in vault.store.list_versions() if "/p/" in version.key]


def _stored_chunks(vault: Vault) -> Counter[bytes]:
    """How often each chunk lies in any pack of the vault."""
    sealer = map_sealer(RecordType.TABLE, tenant=TENANT, domain=DOMAIN, map_key=vault.domain_keys.map_key)
    found: Counter[bytes] = Counter()
    for version in vault.store.list_versions():
        if "/p/" in version.key:
            info = parse_container(version.data, kind=ObjectKind.PACK, table_sealer=sealer)
            found.update(record.content_id for record in info.records)
    return found


def _uncut_puts(write: Any, content: Any) -> tuple[int, int]:
    """How many objects and packs a run stores that nobody cuts."""
    vault = Vault()
    write(vault, content, **_PACKING)
    return len(vault.store.list_versions()), len(_stored_packs(vault))


_PUTS, _PACKS = _uncut_puts(write_stream, _STREAM)


# --- streams ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cut_at", range(_PUTS))
def test_a_stream_cut_at_any_object_sends_no_chunk_twice(cut_at: int) -> None:
    vault = Vault()
    attempt = _cut(vault, cut_at, write_stream, _STREAM)
    stored_before = set(_stored_packs(vault))

    result = write_stream(vault, _STREAM, resume=[attempt], **_PACKING)

    assert set(_stored_chunks(vault).values()) == {1}
    assert len(_stored_packs(vault)) <= _PACKS + 1
    assert {ref.key for ref in result.resumed_objects if "/p/" in ref.key} == stored_before
    assert read_stream(vault, result) == _STREAM


def test_the_manifest_lists_what_it_took_over_and_the_result_tells_it_apart() -> None:
    vault = Vault()
    attempt = _cut(vault, 9, write_stream, _STREAM)

    result = write_stream(vault, _STREAM, resume=[attempt], **_PACKING)

    body = vault.open(result.manifest).body
    assert listed_uses(vault, result) == true_uses(vault, result.manifest)
    assert kinds(result.resumed_objects) == "k" + "p" * 8
    assert {ref.key for ref in body.needed_refs()} == {
        ref.key for ref in (*result.new_objects, *result.resumed_objects, *result.reused_objects)
    }
    assert result.sessions == tuple(body.sessions) and len(body.sessions) == 2
    assert result.stats.resumed_blocks + result.stats.new_blocks == sum(_stored_chunks(vault).values())


def test_a_stream_whose_every_pack_is_there_stores_no_pack_and_no_envelope() -> None:
    vault = Vault()
    attempt = _cut(vault, _PUTS - 1, write_stream, _STREAM)

    result = write_stream(vault, _STREAM, resume=[attempt], **_PACKING)

    assert set(kinds(result.new_objects)) == {"i"}
    assert read_stream(vault, result) == _STREAM


def test_what_is_there_is_not_even_sealed(monkeypatch: pytest.MonkeyPatch) -> None:
    vault = Vault()
    attempt = _cut(vault, 9, write_stream, _STREAM)
    seal, sealed = ChunkPipe._seal, []

    def counting(pipe: ChunkPipe, item: Any, content_id: bytes) -> Any:
        sealed.append(content_id)
        return seal(pipe, item, content_id)

    monkeypatch.setattr(ChunkPipe, "_seal", counting)

    result = write_stream(vault, _STREAM, resume=[attempt], **_PACKING)

    assert len(sealed) == result.stats.new_blocks < sum(_stored_chunks(vault).values())


def test_a_resume_that_is_cut_is_resumed_again_and_again() -> None:
    vault = Vault()
    attempts: list[ResumableSession] = []
    for _ in range(3):
        attempts.append(_cut(vault, 4, write_stream, _STREAM, resume=list(attempts)))

    result = write_stream(vault, _STREAM, resume=attempts, **_PACKING)

    assert set(_stored_chunks(vault).values()) == {1}
    assert kinds(result.resumed_objects) == "kkk" + "p" * 9
    assert read_stream(vault, result) == _STREAM


def test_what_was_taken_over_belongs_to_the_next_backup_as_base() -> None:
    vault = Vault()
    attempt = _cut(vault, 9, write_stream, _STREAM)
    first = write_stream(vault, _STREAM, resume=[attempt], **_PACKING)
    changed = _STREAM[:50_000] + noise(700, "new") + _STREAM[50_000:]

    # The control plane may name the attempt again: it is part of the base now.
    second = write_stream(vault, changed, base=first, resume=[attempt], **_PACKING)

    assert second.resumed_objects == ()
    assert kinds(second.new_objects).count("p") == 1
    assert read_stream(vault, second) == changed
    assert listed_uses(vault, second) == true_uses(vault, second.manifest)


def test_an_attempt_for_an_earlier_key_of_the_tenant_is_left_alone() -> None:
    vault = Vault()
    attempt = _cut(vault, 9, write_stream, _STREAM)
    vault.tenant_key = generate_tenant_key()

    result = write_stream(vault, _STREAM, resume=[attempt], **_PACKING)

    assert result.resumed_objects == ()


def test_a_distrusted_pack_is_sent_again() -> None:
    vault = Vault()
    attempt = _cut(vault, 9, write_stream, _STREAM)
    distrusted = attempt.packs[0]

    result = write_stream(vault, _STREAM, resume=[attempt], distrusted_packs=frozenset({distrusted.sha256}), **_PACKING)

    assert distrusted.key not in {ref.key for ref in result.resumed_objects}
    assert read_stream(vault, result) == _STREAM


def test_a_resume_without_a_way_to_read_is_refused() -> None:
    vault = Vault()
    attempt = _cut(vault, 9, write_stream, _STREAM)

    with pytest.raises(EngineError):
        write_stream_backup(source=None, sink=vault.store, base=None, context=vault.context(), resume=[attempt])


def test_a_promise_that_the_base_makes_needless_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker found the chunk in an earlier attempt; by its turn, the window over the base has come to it."""
    vault = Vault()
    attempt = _cut(vault, 9, write_stream, _STREAM)
    base = write_stream(vault, _STREAM, **_PACKING)
    windows: list[ResumedBlocks] = []

    def watched(packs: Any) -> ResumedBlocks:
        windows.append(ResumedBlocks(packs))
        return windows[-1]

    looked = ChunkPipe._look

    def late(pipe: ChunkPipe, item: Any, content_id: bytes) -> Any:
        if content_id in pipe._packs.known_ids:
            return looked(pipe, item, content_id)._replace(is_promised=True)
        return looked(pipe, item, content_id)

    monkeypatch.setattr("engine.stream_session.ResumedBlocks", watched)
    monkeypatch.setattr(ChunkPipe, "_look", late)

    result = write_stream(vault, _STREAM, base=base, resume=[attempt], **_PACKING)

    assert windows[0]._claims == {}
    assert result.resumed_objects == ()
    assert read_stream(vault, result) == _STREAM


_edits = st.lists(st.tuples(st.integers(0, 90_000), st.integers(0, 9000), st.integers(0, 3000)), max_size=3)


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.integers(1, _PUTS - 1), min_size=1, max_size=3), st.lists(_edits, min_size=5), st.booleans())
def test_a_stream_that_changes_between_attempts_comes_back_as_it_is_now(
    cuts: list[int], edits: list[list[tuple[int, int, int]]], with_base: bool
) -> None:
    vault = Vault()
    base = write_stream(vault, _edited(edits[0]), **_PACKING) if with_base else None
    attempts: list[ResumableSession] = []
    for cut_at, changes in zip(cuts, edits[1:], strict=False):
        # Ends without a cut for fewer objects than the cut's number, or nothing new before the cut
        with suppress(pytest.fail.Exception, StopIteration):
            attempts.append(_cut(vault, cut_at, write_stream, _edited(changes), resume=list(attempts), base=base))
    stream = _edited(edits[-1])

    result = write_stream(vault, stream, resume=attempts, base=base, **_PACKING)

    assert read_stream(vault, result) == stream
    assert listed_uses(vault, result) == true_uses(vault, result.manifest)


def _edited(edits: list[tuple[int, int, int]]) -> bytes:
    data = _STREAM
    for number, (place, removed, added) in enumerate(edits):
        data = data[:place] + noise(added, f"{number}{place}") + data[place + removed :]
    return data


# --- file trees -------------------------------------------------------------------------------------------------------


def _make_tree(root: Path) -> Path:
    """Small files, one with a map of its own, one with a hole, links, and content that comes twice."""
    root.mkdir()
    for number in range(12):
        folder = root / f"folder{number % 3}"
        folder.mkdir(exist_ok=True)
        (folder / f"small{number}").write_bytes(noise(900 + 37 * number, f"small{number}"))
    (root / "large").write_bytes(noise(50_000, "large"))
    (root / "twice").write_bytes(noise(50_000, "large")[:20_000])
    with open(root / "sparse", "wb") as file:
        file.truncate(300_000)
        file.seek(150_000)
        file.write(noise(9000, "sparse"))
    os.link(root / "large", root / "another name")
    (root / "link").symlink_to("large")
    return root


def _expect_restored(vault: Vault, result: TreeWriteResult, root: Path, target: Path) -> None:
    target.mkdir()
    read_tree(vault, result, target)
    assert snapshot(bytes(target)) == snapshot(bytes(root))


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _make_tree(tmp_path_factory.mktemp("source") / "root")


@pytest.fixture(scope="module")
def uncut(tree: Path) -> tuple[int, int]:
    return _uncut_puts(write_tree, tree)


def test_a_tree_cut_at_every_object_sends_no_chunk_twice_and_comes_back(
    tree: Path, uncut: tuple[int, int], tmp_path: Path
) -> None:
    put_count, pack_count = uncut
    assert pack_count >= 10
    for cut_at in range(put_count):
        vault = Vault()
        attempt = _cut(vault, cut_at, write_tree, tree)
        stored_before = set(_stored_packs(vault))

        result = write_tree(vault, tree, resume=[attempt], **_PACKING)

        assert set(_stored_chunks(vault).values()) == {1}
        assert len(_stored_packs(vault)) <= pack_count + 1
        assert {ref.key for ref in result.write.resumed_objects if "/p/" in ref.key} == stored_before
        assert listed_uses(vault, result.write) == true_uses(vault, result.write.manifest)
        _expect_restored(vault, result, tree, tmp_path / str(cut_at))


def test_a_tree_whose_resume_is_cut_is_resumed_again(tree: Path, tmp_path: Path) -> None:
    vault = Vault()
    attempts: list[ResumableSession] = []
    for _ in range(3):
        attempts.append(_cut(vault, 4, write_tree, tree, resume=list(attempts)))

    result = write_tree(vault, tree, resume=attempts, **_PACKING)

    assert set(_stored_chunks(vault).values()) == {1}
    assert kinds(result.write.resumed_objects).count("p") == 9
    _expect_restored(vault, result, tree, tmp_path / "target")


@settings(
    max_examples=10, phases=[Phase.explicit, Phase.generate], deadline=None, suppress_health_check=list(HealthCheck)
)
@given(
    st.lists(st.integers(1, 12), min_size=1, max_size=3),
    st.lists(st.sets(st.integers(0, 11), max_size=4), min_size=4, max_size=4),
    st.booleans(),
)
def test_a_tree_that_changes_between_attempts_comes_back_as_it_is_now(
    tmp_path_factory: pytest.TempPathFactory, cuts: list[int], changes: list[set[int]], with_base: bool
) -> None:
    place = tmp_path_factory.mktemp("changing")
    root = _make_tree(place / "root")
    vault = Vault()
    base = write_tree(vault, root, **_PACKING) if with_base else None
    attempts: list[ResumableSession] = []
    for number, changed in enumerate(changes):
        for file in changed:
            (root / f"folder{file % 3}" / f"small{file}").write_bytes(noise(5000, f"{number} {file}"))
        if number == len(changes) - 1 or number >= len(cuts):
            continue
        # Ends without a cut for fewer objects than the cut's number, or nothing new before the cut
        with suppress(pytest.fail.Exception, StopIteration):
            attempts.append(_cut(vault, cuts[number], write_tree, root, resume=list(attempts), base=base))

    result = write_tree(vault, root, resume=attempts, base=base, **_PACKING)

    _expect_restored(vault, result, root, place / "target")
    assert listed_uses(vault, result.write) == true_uses(vault, result.write.manifest)
