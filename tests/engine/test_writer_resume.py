"""A backup that was cut is taken up again: what is stored is not sent twice, and what does not fit is left alone."""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.crypto import generate_tenant_key
from engine.envelope import parse_envelope
from engine.errors import EngineError, StoreError
from engine.index import MapEntry
from engine.manifest import ObjectEntry, SessionEntry
from engine.pack import ContainerRecord, parse_container
from engine.resume import LoadedPack, ResumableSession
from engine.sealing import RecordType, map_sealer
from engine.store.base import ObjectKind, ObjectRef
from engine.window import ResumedBlocks
from engine.writer import WriteResult
from tests.engine.support import BLOCK_SIZE, DOMAIN, TENANT, ImageSource, PatchedSource, Vault, kinds, noise

_BLOCKS_IN_A_PACK = 7
_PACK_SIZE = 60 + _BLOCKS_IN_A_PACK * (BLOCK_SIZE + 16) + 600
_IMAGE = noise(20 * _BLOCKS_IN_A_PACK * BLOCK_SIZE)


def _granted(vault: Vault, since: int) -> ResumableSession:
    """What the control plane knows of an attempt: all that it granted, in order, whether it was stored or not."""
    puts = [key for name, key in vault.store.operations[since:] if name == "put"]
    envelope = _ref(vault, next(key for key in puts if "/k/" in key))
    return ResumableSession(envelope, [_ref(vault, key) for key in puts if "/p/" in key])


def _ref(vault: Vault, key: str) -> ObjectRef:
    """A reference without version id; to an object that is not there, when it was never stored."""
    found = [version for version in vault.store.list_versions() if version.key == key]
    return ObjectRef(key, key.rpartition("/")[2], len(found[0].data) if found else 4000)


def _cut(vault: Vault, image: bytes, put: int, **more: Any) -> ResumableSession:
    """Run a backup whose puts from this number on fail."""
    since = vault.store.operation_count
    failing = _FailingSink(vault, put)
    with pytest.raises(StoreError):
        vault.write(image, sink=failing, pack_size=_PACK_SIZE, compression_level=None, **more)
    _wait_for_uploads()
    return _granted(vault, since)


class _FailingSink:
    """Loses the connection at a put; counts only puts, whatever is read meanwhile."""

    def __init__(self, vault: Vault, failing_put: int) -> None:
        self._vault = vault
        self._failing_put = failing_put
        self._lock = threading.Lock()
        self._puts = 0

    def put(self, *, key: str, data: bytes, sha256: str) -> ObjectRef:
        with self._lock:
            number = self._puts
            self._puts += 1
        if number >= self._failing_put:
            # Granted, but never stored.
            self._vault.store.operations.append(("put", key))
            self._vault.store.operation_count += 1
            raise StoreError("cut", transient=True)
        return self._vault.store.put(key=key, data=data, sha256=sha256)


def _wait_for_uploads() -> None:
    for thread in threading.enumerate():
        if thread.name.startswith("upload"):
            thread.join(timeout=60)


def _resume(vault: Vault, image: Any, *attempts: ResumableSession, **more: Any) -> WriteResult:
    return vault.write(image, resume=attempts, **{"pack_size": _PACK_SIZE, "compression_level": None, **more})


def _stored_blocks(vault: Vault) -> Counter[bytes]:
    """How often each block lies in any pack of the vault."""
    sealer = map_sealer(RecordType.TABLE, tenant=TENANT, domain=DOMAIN, map_key=vault.domain_keys.map_key)
    found: Counter[bytes] = Counter()
    for version in vault.store.list_versions():
        if "/p/" in version.key:
            info = parse_container(version.data, kind=ObjectKind.PACK, table_sealer=sealer)
            found.update(record.content_id for record in info.records)
    return found


@pytest.mark.parametrize("put", range(23))
def test_a_cut_at_any_put_sends_no_block_twice(put: int) -> None:
    """Of 23 puts: an envelope, 20 packs, a segment, the manifest."""
    vault = Vault()
    attempt = _cut(vault, _IMAGE, put)
    stored_before = {version.key for version in vault.store.list_versions() if "/p/" in version.key}

    result = _resume(vault, _IMAGE, attempt)

    assert set(_stored_blocks(vault).values()) == {1}
    assert sum(_stored_blocks(vault).values()) == len(_IMAGE) // BLOCK_SIZE
    assert {ref.key for ref in result.resumed_objects if "/p/" in ref.key} == stored_before
    assert len(stored_before) == min(max(put - 1, 0), 20)
    assert vault.restored(result.manifest) == _IMAGE


def test_the_manifest_lists_the_earlier_session_and_the_result_tells_what_nobody_verified() -> None:
    vault = Vault()
    attempt = _cut(vault, _IMAGE, 11)

    result = _resume(vault, _IMAGE, attempt)

    body = vault.open(result.manifest).body
    assert {entry.session_id: entry.use_count for entry in body.sessions} == {
        _session_id(vault, attempt): 10 * _BLOCKS_IN_A_PACK,
        result.session_id: 10 * _BLOCKS_IN_A_PACK,
    }
    assert kinds(result.resumed_objects) == "k" + "p" * 10
    assert kinds(result.new_objects) == "ik" + "p" * 10
    assert result.stats.resumed_blocks == 10 * _BLOCKS_IN_A_PACK
    assert result.stats.new_blocks == 10 * _BLOCKS_IN_A_PACK
    assert {ref.key for ref in body.needed_refs()} == {
        ref.key for ref in (*result.new_objects, *result.resumed_objects, *result.reused_objects)
    }


def test_a_backup_whose_every_pack_is_there_stores_no_pack_and_no_envelope() -> None:
    vault = Vault()
    attempt = _cut(vault, _IMAGE, 21)

    result = _resume(vault, _IMAGE, attempt)

    assert kinds(result.new_objects) == "i"
    assert vault.restored(result.manifest) == _IMAGE


def test_a_resume_that_is_cut_is_resumed_again_and_again() -> None:
    vault = Vault()
    attempts: list[ResumableSession] = []
    for _ in range(4):
        attempt = _cut(vault, _IMAGE, 5, resume=list(attempts))
        attempts.append(attempt)

    result = _resume(vault, _IMAGE, *attempts)

    assert set(_stored_blocks(vault).values()) == {1}
    assert kinds(result.resumed_objects) == "kkkk" + "p" * 16
    assert kinds(result.new_objects) == "ikpppp"
    assert vault.restored(result.manifest) == _IMAGE


def test_what_a_backup_took_over_belongs_to_the_next_one_as_base() -> None:
    vault = Vault()
    attempt = _cut(vault, _IMAGE, 11)
    first = _resume(vault, _IMAGE, attempt)

    # The control plane may name the attempt again: it is part of the base now.
    second = _resume(vault, _IMAGE[:-BLOCK_SIZE] + noise(BLOCK_SIZE, "end"), attempt, base=first)

    assert second.resumed_objects == ()
    assert kinds(second.new_objects) == "ikp"
    assert vault.restored(second.manifest) == _IMAGE[:-BLOCK_SIZE] + noise(BLOCK_SIZE, "end")


_edits = st.lists(
    st.tuples(st.integers(0, 139), st.integers(1, 30), st.sampled_from(["zero", "new", "old"])), max_size=6
)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.integers(2, 22), min_size=1, max_size=3), st.lists(_edits, min_size=4, max_size=4), st.booleans())
def test_a_source_that_changes_between_attempts_comes_back_as_it_is_now(
    cuts: list[int], edits: list[list[tuple[int, int, str]]], with_base: bool
) -> None:
    vault = Vault()
    base = vault.write(_edited(_IMAGE, edits[-1])) if with_base else None
    attempts: list[ResumableSession] = []
    for cut, changes in zip(cuts, edits, strict=False):
        try:
            image = _edited(_IMAGE, changes)
            attempts.append(_cut(vault, image, cut, resume=list(attempts), base=base))
        except (pytest.fail.Exception, StopIteration):
            pass  # fewer puts than the cut's number, or nothing new before the cut
    image = _edited(_IMAGE, edits[-2])

    result = _resume(vault, image, *attempts, base=base)

    assert vault.restored(result.manifest) == image


def _edited(image: bytes, edits: list[tuple[int, int, str]]) -> bytes:
    changed = bytearray(image)
    for block, count, how in edits:
        start, length = block * BLOCK_SIZE, min(count, 140 - block) * BLOCK_SIZE
        if how == "zero":
            changed[start : start + length] = bytes(length)
        elif how == "new":
            changed[start : start + length] = noise(length, f"{block}/{count}")
        else:
            changed[start : start + length] = image[:length]
    return bytes(changed)


def _attempt_with(vault: Vault) -> ResumableSession:
    return _cut(vault, _IMAGE, 11)


def _session_id(vault: Vault, attempt: ResumableSession) -> bytes:
    return parse_envelope(vault.store.get(attempt.envelope)).session_id


def _sent_again(vault: Vault, attempt: ResumableSession, source: Any = None) -> int:
    """How many of the ten stored packs of an attempt had to be sent again; the image comes back in any case."""
    result = _resume(vault, _IMAGE, attempt, resume_source=source or vault.store)

    assert vault.restored(result.manifest) == _IMAGE
    return 10 - sum("/p/" in ref.key for ref in result.resumed_objects)


def test_a_missing_pack_is_sent_again() -> None:
    vault = Vault()
    attempt = _attempt_with(vault)
    source = PatchedSource(vault.store, {attempt.packs[3].key: None})

    assert _sent_again(vault, attempt, source) == 1


@pytest.mark.parametrize("place", ["magic", "session", "commitment", "table", "trailer", "mark"])
def test_a_pack_whose_ends_are_damaged_is_sent_again(place: str) -> None:
    vault = Vault()
    attempt = _attempt_with(vault)
    pack = attempt.packs[3]
    data = bytearray(vault.store.get(pack))
    offsets = {"magic": 0, "session": 12, "commitment": 30, "table": -100, "trailer": -60, "mark": -1}
    data[offsets[place]] ^= 1

    assert _sent_again(vault, attempt, PatchedSource(vault.store, {pack.key: bytes(data)})) == 1


def test_a_truncated_pack_is_sent_again() -> None:
    vault = Vault()
    attempt = _attempt_with(vault)
    pack = attempt.packs[3]
    cut = vault.store.get(pack)[:-70]

    assert _sent_again(vault, attempt, PatchedSource(vault.store, {pack.key: cut})) == 1


def test_a_size_that_is_not_the_packs_is_noticed() -> None:
    vault = Vault()
    attempt = _attempt_with(vault)
    packs = [replace(pack, size_bytes=size) for pack, size in zip(attempt.packs, [1, 130, 1 << 40], strict=False)]

    assert _sent_again(vault, replace(attempt, packs=[*packs, *attempt.packs[3:]])) == 3


def test_packs_of_another_session_are_not_taken() -> None:
    vault = Vault()
    attempt, other = _attempt_with(vault), _cut(vault, noise(len(_IMAGE), "other"), 11)

    assert _sent_again(vault, replace(attempt, packs=other.packs)) == 10


def test_a_pack_whose_header_names_another_session_than_its_records_is_not_taken() -> None:
    vault = Vault()
    attempt = _attempt_with(vault)
    data = bytearray(vault.store.get(attempt.packs[0]))
    data[12:28] = b"another session!"

    assert _sent_again(vault, attempt, PatchedSource(vault.store, {attempt.packs[0].key: bytes(data)})) == 1


def test_an_envelope_that_does_not_fit_makes_an_attempt_useless() -> None:
    vault = Vault()
    attempt, other = _attempt_with(vault), _cut(vault, noise(len(_IMAGE), "other"), 11)

    assert _sent_again(vault, replace(attempt, envelope=other.envelope)) == 10


def test_an_envelope_with_another_commitment_than_the_packs_makes_them_useless() -> None:
    vault = Vault()
    attempt = _attempt_with(vault)
    forged = bytearray(vault.store.get(attempt.envelope))
    position = bytes(forged).index(_session_id(vault, attempt)) + 16
    forged[position] ^= 1
    stored = vault.store.put_object(key="x", data=bytes(forged))
    key = attempt.envelope.key.rpartition("/")[0] + "/" + stored.sha256
    vault.store.put_object(key=key, data=bytes(forged))

    assert _sent_again(vault, replace(attempt, envelope=ObjectRef(key, stored.sha256, len(forged)))) == 10


@pytest.mark.parametrize("how", ["missing", "damaged"])
def test_an_attempt_without_a_whole_envelope_is_useless(how: str) -> None:
    vault = Vault()
    attempt = _attempt_with(vault)
    data = bytearray(vault.store.get(attempt.envelope))
    data[-1] ^= 1
    patch = {"missing": None, "damaged": bytes(data)}[how]

    assert _sent_again(vault, attempt, PatchedSource(vault.store, {attempt.envelope.key: patch})) == 10


def test_an_attempt_for_an_earlier_key_of_the_tenant_is_useless() -> None:
    vault = Vault()
    attempt = _attempt_with(vault)
    vault.tenant_key = generate_tenant_key()

    assert _sent_again(vault, attempt) == 10


def test_records_of_a_length_that_no_block_of_the_image_has_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    windows: list[ResumedBlocks] = []

    def watched(packs: Any) -> ResumedBlocks:
        windows.append(ResumedBlocks(packs))
        return windows[-1]

    monkeypatch.setattr("engine.writer.ResumedBlocks", watched)
    vault = Vault()
    attempt = _cut(vault, _IMAGE + b"tail", 21, block_size=2 * BLOCK_SIZE)

    _resume(vault, _IMAGE, attempt, block_size=2 * BLOCK_SIZE)
    _resume(vault, _IMAGE, attempt)

    assert len(windows[0]) > 20
    assert len(windows[1]) == 0


def test_a_distrusted_pack_is_sent_again() -> None:
    vault = Vault()
    attempt = _attempt_with(vault)

    result = _resume(vault, _IMAGE, attempt, distrusted_packs=frozenset({attempt.packs[0].sha256}))

    assert attempt.packs[0].key not in {ref.key for ref in result.resumed_objects}
    assert kinds(result.resumed_objects) == "k" + "p" * 9


def test_objects_of_another_name_than_their_own_are_not_read() -> None:
    vault = Vault()
    attempt = _attempt_with(vault)
    packs = [replace(pack, key=pack.key.replace(TENANT, "other")) for pack in attempt.packs]

    assert _sent_again(vault, replace(attempt, packs=packs)) == 10
    assert not any("/other/" in key for _, key in vault.store.operations)


def test_a_store_that_keeps_failing_for_a_passing_reason_is_not_asked_for_ever() -> None:
    vault = Vault()
    attempt = _attempt_with(vault)
    asked: list[str] = []

    class DownForPacks:
        def get(self, ref: ObjectRef, *, offset: int = 0, length: int | None = None) -> bytes:
            if "/p/" in ref.key:
                asked.append(ref.key)
                raise StoreError("busy", transient=True)
            return vault.store.get(ref, offset=offset, length=length)

    many = replace(attempt, packs=list(attempt.packs) * 20)

    assert _sent_again(vault, many, DownForPacks()) == 10
    assert len(asked) < 20


def test_a_resume_without_a_way_to_read_is_refused() -> None:
    vault = Vault()
    attempt = _attempt_with(vault)

    with pytest.raises(EngineError):
        _resume(vault, _IMAGE, attempt, resume_source=None)


def test_a_table_larger_than_the_first_look_is_read_in_full(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.resume._TAIL_BYTES", 80)
    vault = Vault()

    assert _sent_again(vault, _attempt_with(vault)) == 0


def test_only_the_ends_of_packs_are_read() -> None:
    vault = Vault()
    large = {"pack_size": 100_000, "compression_level": None}
    since = vault.store.operation_count
    with pytest.raises(StoreError):
        vault.write(_IMAGE, sink=_FailingSink(vault, 2), **large)
    attempt = _granted(vault, since)
    ranges: list[tuple[int, int]] = []

    class Counting:
        def get(self, ref: ObjectRef, *, offset: int = 0, length: int | None = None) -> bytes:
            if "/p/" in ref.key:
                ranges.append((offset, length or 0))
            return vault.store.get(ref, offset=offset, length=length)

    result = _resume(vault, _IMAGE, attempt, resume_source=Counting(), **large)

    assert result.stats.resumed_blocks == 140
    assert ranges == [(0, 60), (attempt.packs[0].size_bytes - 32 * 1024, 32 * 1024)]


def test_a_window_smaller_than_the_attempt_moves_along_with_the_image(monkeypatch: pytest.MonkeyPatch) -> None:
    vault = Vault()
    attempt = _cut(vault, _IMAGE, 21)
    seen: list[int] = []

    def watched(*arguments: Any, **more: Any) -> ResumedBlocks:
        window = ResumedBlocks(*arguments, entries_max=70, **more)
        original = window.take

        def take(content_id: bytes) -> MapEntry | None:
            seen.append(len(window))
            return original(content_id)

        window.take = take
        return window

    monkeypatch.setattr("engine.writer.ResumedBlocks", watched)
    monkeypatch.setattr("engine.window._HITS_AHEAD", 2)

    result = _resume(vault, _IMAGE, attempt)

    assert max(seen) <= 70
    assert result.stats.resumed_blocks == len(_IMAGE) // BLOCK_SIZE
    assert vault.restored(result.manifest) == _IMAGE


# --- the window alone ---------------------------------------------------------------------------------------------


def _pack(number: int, ids: list[int]) -> LoadedPack:
    entry = ObjectEntry(number.to_bytes(32, "big"), 10_000, None, 0)
    session = SessionEntry(b"s" * 16, b"c" * 32, ObjectEntry(b"e" * 32, 100, None, 1), 0)
    records = tuple(
        ContainerRecord(b"s" * 16, 60 + 100 * place, 100, 80, 0, bytes(12), _id(content))
        for place, content in enumerate(ids)
    )
    return LoadedPack(entry, session, records)


def _id(content: int) -> bytes:
    return content.to_bytes(32, "big")


_SIZE = 24


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.lists(st.integers(0, 60), min_size=0, max_size=9), max_size=14),
    st.lists(st.tuples(st.sampled_from(["ask", "take", "miss", "forget"]), st.integers(0, 60)), max_size=80),
)
def test_the_window_is_bounded_and_only_says_what_is_so(packs: list[list[int]], actions: list[tuple[str, int]]) -> None:
    window = ResumedBlocks([_pack(number, ids) for number, ids in enumerate(packs)], entries_max=_SIZE)
    promised: Counter[int] = Counter()

    for action, content in actions:
        if action == "ask":
            promised[content] += _id(content) in window
        elif action == "take":
            entry = window.take(_id(content))
            # What was promised to a sealing thread is kept, wherever the window is by now.
            assert entry is not None or not promised[content]
            promised[content] = max(0, promised[content] - 1)
            if entry is not None:
                ids = packs[int.from_bytes(entry.object_name, "big")]
                assert ids[(entry.offset - 60) // 100] == content == int.from_bytes(entry.content_id, "big")
                assert entry.object_name in window.packs and entry.session_id in window.sessions
        elif action == "miss":
            window.note_miss()
        else:
            window.forget(_id(content))
            promised[content] = 0
        assert len(window) <= _SIZE


def test_a_long_run_of_new_blocks_moves_the_window() -> None:
    window = ResumedBlocks([_pack(number, [number]) for number in range(100)], entries_max=10)
    assert _id(50) not in window

    for _ in range(45):
        window.note_miss()

    assert _id(50) in window
    assert len(window) == 10


def test_a_block_that_was_promised_twice_is_given_twice_wherever_the_window_is() -> None:
    window = ResumedBlocks([_pack(number, [number]) for number in range(100)], entries_max=10)
    assert _id(0) in window
    assert _id(0) in window
    for _ in range(90):
        window.note_miss()

    assert [window.take(_id(0)) is not None for _ in range(3)] == [True, True, False]


def test_one_block_found_far_ahead_does_not_move_the_window() -> None:
    window = ResumedBlocks([_pack(number, [number]) for number in range(100)], entries_max=10)

    assert window.take(_id(9)) is not None
    assert window.take(_id(0)) is not None
    assert _id(10) not in window


def test_a_pack_with_more_records_than_the_window_holds_is_taken_in_part() -> None:
    window = ResumedBlocks([_pack(0, list(range(30)))], entries_max=10)

    assert len(window) == 10


def test_a_backup_that_reads_the_source_while_it_resumes_stays_in_order() -> None:
    vault = Vault()
    attempt = _attempt_with(vault)
    source = ImageSource(_IMAGE)

    result = _resume(vault, source, attempt)

    assert source.reads == sorted(source.reads)
    assert result.stats.read_bytes == len(_IMAGE)
