"""Reading blocks from the vault: which reads to make, and what to do about a record that is not what it should be.

Records of one pack that lie close together are fetched with one ranged read. A record that cannot be read or opened
is read once more on its own, then looked for at every place that a relocation names; only then it is damage. What
comes out of any place has passed authentication and has the content id of the signed map.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from engine.crypto import DomainKeys, check_commitment
from engine.errors import FormatError, IntegrityError, KeyMismatchError, StoreError, StoreNotFoundError
from engine.index import MapEntry, resolve
from engine.manifest import ManifestBody, ObjectEntry
from engine.relocations import Relocations, moved_places
from engine.sealing import RecordSealer, block_sealer
from engine.store.base import ObjectKind, ObjectRef, ObjectSource

FETCH_BYTES_MAX = 16 * 1024 * 1024
GAP_BYTES_MAX = 64 * 1024


@dataclass(frozen=True, slots=True)
class RestoreKeys:
    """The domain's keys and the data keys by session id. What only relocations need may be missing."""

    domain: DomainKeys
    data_keys: Mapping[bytes, bytes] = field(repr=False)


class Location(NamedTuple):
    """A record in a pack that can be read."""

    pack: ObjectRef
    entry: MapEntry


class BlockPlace(NamedTuple):
    """A block of the image: its map entry, and where to read it first."""

    image_offset: int
    entry: MapEntry
    location: Location


@dataclass(frozen=True, slots=True)
class Fetch:
    """One ranged read: records of one pack, ascending by offset."""

    pack: ObjectRef
    offset: int
    length: int
    places: tuple[BlockPlace, ...]


@dataclass(slots=True)
class Fetched:
    fetched_bytes: int = 0
    blocks: list[tuple[int, bytes]] = field(default_factory=list)
    damaged: list[tuple[int, int]] = field(default_factory=list)


def session_sealers(
    body: ManifestBody, keys: RestoreKeys, relocations: Sequence[Relocations]
) -> dict[bytes, RecordSealer]:
    """Sealers of all sessions whose blocks can be opened.

    KeyMismatchError when the key of a session that the manifest uses is missing or is not the right one. A session
    that only relocations use is left out then: they do not help, but nothing depends on them.
    """
    sealers = {
        session.session_id: _sealer(body, keys, _data_key(keys, session.session_id), session.commitment)
        for session in body.sessions
        if session.use_count
    }
    for session in (session for relocation in relocations for session in relocation.sessions):
        data_key = keys.data_keys.get(session.session_id)
        if session.session_id in sealers or data_key is None:
            continue
        try:
            sealers[session.session_id] = _sealer(body, keys, data_key, session.commitment)
        except KeyMismatchError:
            continue
    return sealers


def _data_key(keys: RestoreKeys, session_id: bytes) -> bytes:
    data_key = keys.data_keys.get(session_id)
    if data_key is None:
        raise KeyMismatchError(f"the data key of session {session_id.hex()} is missing", code="missing_key")
    return data_key


def _sealer(body: ManifestBody, keys: RestoreKeys, data_key: bytes, commitment: bytes) -> RecordSealer:
    check_commitment(data_key, commitment)
    return block_sealer(tenant=body.tenant, domain=body.domain, id_key=keys.domain.id_key, data_key=data_key)


class Locator:
    """Knows where a block can be read, nearest place first. Thread-safe."""

    def __init__(
        self,
        *,
        body: ManifestBody,
        sealers: Mapping[bytes, RecordSealer],
        relocations: Sequence[Relocations],
        gone_packs: Collection[bytes],
    ) -> None:
        self._body = body
        self._packs = {pack.sha256: body.object_ref(ObjectKind.PACK, pack) for pack in body.packs}
        self._sealers = sealers
        self._relocations = relocations
        self._gone = set(gone_packs)

    def give_up(self, pack: ObjectRef) -> None:
        """The pack is not there: do not try it again in this restore."""
        self._gone.add(bytes.fromhex(pack.sha256))

    def is_gone(self, pack: ObjectRef) -> bool:
        return bytes.fromhex(pack.sha256) in self._gone

    def locations(self, entry: MapEntry) -> Iterator[Location]:
        name = resolve(entry.object_name)
        pack = self._packs.get(name)
        if pack is not None and name not in self._gone and entry.offset + entry.record_length <= pack.size_bytes:
            yield Location(pack, entry)
        for place in moved_places(self._relocations, entry):
            if place.pack not in self._gone and place.entry.session_id in self._sealers:
                yield Location(self._ref(place.pack_entry), place.entry)

    def _ref(self, pack: ObjectEntry) -> ObjectRef:
        return self._body.object_ref(ObjectKind.PACK, pack)


class Fetcher:
    """Reads and opens records. Thread-safe."""

    def __init__(self, *, object_source: ObjectSource, sealers: Mapping[bytes, RecordSealer], locator: Locator) -> None:
        self._object_source = object_source
        self._sealers = sealers
        self._locator = locator

    def run(self, fetch: Fetch) -> Fetched:
        """All blocks of one read. Raises StoreError (transient) when the store is unreachable."""
        result = Fetched()
        data = self._read_range(fetch, result)
        before: tuple[object, ...] = ()
        plain: bytes | None = None
        for place in fetch.places:
            # A block that the image has several times is opened once: equal places follow each other.
            record = place.entry[1:]
            if plain is not None and record == before:
                result.blocks.append((place.image_offset, plain))
                continue
            start = place.location.entry.offset - fetch.offset
            payload = data[start : start + place.location.entry.record_length] if data is not None else None
            plain, before = self._open(place.entry, place.location, payload), record
            if plain is None:
                plain = self._search(place, result)
            if plain is None:
                result.damaged.append((place.image_offset, place.entry.plain_length))
            else:
                result.blocks.append((place.image_offset, plain))
        return result

    def _read_range(self, fetch: Fetch, result: Fetched) -> bytes | None:
        """None when the read as a whole fails for good; each record is then tried on its own."""
        for is_last_try in (False, True):
            if self._locator.is_gone(fetch.pack):
                return None
            try:
                return self._get(fetch.pack, fetch.offset, fetch.length, result)
            except StoreNotFoundError:
                if is_last_try:
                    self._locator.give_up(fetch.pack)
            except StoreError as error:
                if error.transient:
                    raise
                return None
            except IntegrityError:
                return None
        return None

    def _search(self, place: BlockPlace, result: Fetched) -> bytes | None:
        """A first bad read is not yet damage: read again before saying so, and look at the other places."""
        for location in self._locator.locations(place.entry):
            tries = 1 if location == place.location else 2
            for _ in range(tries):
                plain = self._open(place.entry, location, self._read_record(location, result))
                if plain is not None:
                    return plain
        return None

    def _read_record(self, location: Location, result: Fetched) -> bytes | None:
        try:
            return self._get(location.pack, location.entry.offset, location.entry.record_length, result)
        except IntegrityError:
            return None
        except StoreError as error:
            if error.transient:
                raise
            return None

    def _open(self, entry: MapEntry, location: Location, payload: bytes | None) -> bytes | None:
        """The block's plaintext, if this payload is the one that the signed map means."""
        sealer = self._sealers.get(location.entry.session_id)
        if payload is None or sealer is None or location.entry.content_id != entry.content_id:
            return None
        try:
            return sealer.open(location.entry.sealed(payload))
        except (IntegrityError, FormatError):
            return None

    def _get(self, pack: ObjectRef, offset: int, length: int, result: Fetched) -> bytes:
        data = self._object_source.get(pack, offset=offset, length=length)
        result.fetched_bytes += len(data)
        if len(data) != length:
            raise IntegrityError("the store returned another length than asked for")
        return data


def plan_fetches(places: Iterable[BlockPlace]) -> Iterator[Fetch]:
    """Group records by pack and closeness, within the limits for one read (stored and plain bytes)."""
    group: list[BlockPlace] = []
    plain_bytes = 0
    for place in sorted(places, key=_place_order):
        if group and not _fits(group, place, plain_bytes):
            yield _fetch_of(group)
            group, plain_bytes = [], 0
        group.append(place)
        plain_bytes += place.entry.plain_length
    if group:
        yield _fetch_of(group)


def _place_order(place: BlockPlace) -> tuple[str, int, int]:
    return place.location.pack.sha256, place.location.entry.offset, place.image_offset


def _fits(group: list[BlockPlace], place: BlockPlace, plain_bytes: int) -> bool:
    first, last = group[0].location, group[-1].location.entry
    entry = place.location.entry
    if place.location.pack != first.pack or plain_bytes + entry.plain_length > FETCH_BYTES_MAX:
        return False
    is_close = entry.offset - (last.offset + last.record_length) <= GAP_BYTES_MAX
    return is_close and entry.offset + entry.record_length - first.entry.offset <= FETCH_BYTES_MAX


def _fetch_of(group: list[BlockPlace]) -> Fetch:
    entries = [place.location.entry for place in group]
    start = entries[0].offset
    end = max(entry.offset + entry.record_length for entry in entries)
    return Fetch(group[0].location.pack, start, end - start, tuple(group))
