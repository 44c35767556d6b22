"""The base of a backup as far as it can be trusted, and what was stored anew because it could not.

Packs and segments may be known as damaged, condemned or being removed, and a page of the base's map may turn out to be
unreadable in the middle of a run. Nothing of that ends a backup: what cannot be trusted is read from the source again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection

from engine.backup import MoveReport
from engine.errors import EngineError, FormatError, IntegrityError, StoreError, StoreNotFoundError
from engine.index import MapEntry, is_resolved, resolve
from engine.manifest import ManifestBody
from engine.repository import MapReader


class BaseDamagedError(EngineError):
    """A page of the base's map cannot be used, and its leaves were not going to be walked. Never leaves the writer."""

    default_code = "base_damaged"


def is_damage(error: EngineError) -> bool:
    """Whether the object is at fault: lasting, and not for want of a connection."""
    if isinstance(error, (FormatError, IntegrityError, StoreNotFoundError)):
        return True
    # A wrong length may be a cut connection and is retried as such; what is left of it is an object that was cut.
    return isinstance(error, StoreError) and (not error.transient or error.code == "bad_length")


class BaseMap:
    """The map of the base. With `tolerant` a page that cannot be used is as if it were not there, and `leaf` says so;
    without, it raises BaseDamagedError. Trouble of the connection passes through. Not thread-safe.
    """

    def __init__(
        self,
        reader: MapReader,
        *,
        distrusted_packs: Collection[str] = (),
        distrusted_segments: Collection[str] = (),
        tolerant: bool,
    ) -> None:
        self._reader = reader
        self._packs = _hashes_in(distrusted_packs, {entry.sha256 for entry in reader.body.packs})
        self._segments = _hashes_in(distrusted_segments, {entry.sha256 for entry in reader.body.segments})
        self.tolerant = tolerant or bool(self._packs or self._segments)
        self._lost: set[tuple[int, int]] = set()
        self.lost_leaves = 0

    @property
    def body(self) -> ManifestBody:
        return self._reader.body

    @property
    def height(self) -> int:
        return self._reader.height

    def page_ref(self, level: int, index: int) -> MapEntry | None:
        """Where the page lies; None for a hole and for what cannot be used."""
        if level > self.height or not self._is_reachable(level, index):
            return None
        ref = self._reader.page_ref(level, index)
        return ref if ref is not None and resolve(ref.object_name) not in self._segments else None

    def interior(self, level: int, index: int) -> dict[int, MapEntry]:
        """Entries of an interior page; empty for a hole and for what cannot be used."""
        return self._reader.interior(level, index) if self._is_readable(level, index) else {}

    def leaf(self, index: int) -> dict[int, MapEntry] | None:
        """Entries of a leaf, empty for a hole; None when nobody knows what they are."""
        if self._is_reachable(0, index) and not self._is_distrusted(0, index):
            try:
                return self._reader.leaf(index)
            except EngineError as error:
                self._give_up(0, index, error)
        self._lost.add((0, index))
        self.lost_leaves += 1
        return None

    def distrusted_entries(self, entries: dict[int, MapEntry]) -> dict[int, MapEntry]:
        """Those of a leaf's entries that lie in packs that must not be referred to."""
        if not self._packs:
            return {}
        return {slot: entry for slot, entry in entries.items() if resolve(entry.object_name) in self._packs}

    def _is_reachable(self, level: int, index: int) -> bool:
        """Whether all pages above this one could be read, and itself was not found lost."""
        if (level, index) in self._lost:
            return False
        return level >= self.height or self._is_readable(level + 1, index // self.body.fan_out)

    def _is_readable(self, level: int, index: int) -> bool:
        if level > self.height or not self._is_reachable(level, index):
            return False
        if self._is_distrusted(level, index):
            self._lost.add((level, index))
            return False
        try:
            self._reader.interior(level, index)
        except EngineError as error:
            self._give_up(level, index, error)
            return False
        return True

    def _is_distrusted(self, level: int, index: int) -> bool:
        ref = self._reader.page_ref(level, index)
        return ref is not None and resolve(ref.object_name) in self._segments

    def _give_up(self, level: int, index: int, error: EngineError) -> None:
        if not is_damage(error):
            raise error
        if not self.tolerant:
            raise BaseDamagedError(f"a map page of the base cannot be used: {error.message}") from error
        self._lost.add((level, index))


class MovedBlocks:
    """Reports blocks that were stored anew in place of distrusted ones, once their packs are closed and have a name."""

    def __init__(self, report: MoveReport | None) -> None:
        self._report = report
        self._waiting: deque[tuple[MapEntry, MapEntry]] = deque()
        self.count = 0

    def add(self, old: MapEntry, new: MapEntry) -> None:
        self.count += 1
        if self._report is not None:
            self._waiting.append((old, new))
        self.tell()

    def tell(self) -> None:
        """Report what has become certain. Call last when all packs are closed."""
        while self._report is not None and self._waiting and is_resolved(self._waiting[0][1].object_name):
            old, new = self._waiting.popleft()
            self._report(old, new._replace(object_name=resolve(new.object_name)))


def _hashes_in(names: Collection[str], known: Collection[bytes]) -> frozenset[bytes]:
    """The hashes among `known`; FormatError for a name that is none."""
    try:
        return frozenset(known) & {bytes.fromhex(name) for name in names}
    except ValueError as error:
        raise FormatError("a distrusted object is not named by a hash in hexadecimal") from error
