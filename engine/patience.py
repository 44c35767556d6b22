"""A source and a vault that may hang, made so that their user still notices a cancel within a second."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import Future

from engine.backup import BlockSource
from engine.errors import SourceError
from engine.scan import Extent
from engine.store.base import ObjectRef, ObjectSource
from engine.waiting import Background


class PatientSource:
    """A BlockSource whose every call runs in one background thread, hence one at a time. Errors pass unchanged."""

    def __init__(self, source: BlockSource, background: Background) -> None:
        self._source = source
        self._background = background
        self.size_bytes = source.size_bytes

    def extents(self) -> Iterable[Extent]:
        return self._background.items(self._background.call(self._source.extents))

    def changed_extents(self) -> Iterable[Extent] | None:
        """Asked anew at each call."""
        changed = self._background.call(self._source.changed_extents)
        return self._background.items(changed) if changed is not None else None

    def begin_read(self, ranges: Sequence[tuple[int, int]]) -> Future[list[bytes]]:
        """Start to read ranges of (offset, length)."""
        return self._background.start(lambda: [self._source.read(offset, length) for offset, length in ranges])

    def end_read(self, future: Future[list[bytes]], ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """What `begin_read` began; SourceError when a length is not the one asked for."""
        pieces = self._background.result(future)
        if [len(piece) for piece in pieces] != [length for _, length in ranges]:
            raise SourceError("the source returned another length than asked for", code="short_read")
        return pieces

    def check_unchanged(self) -> None:
        self._background.call(self._source.check_unchanged)


class PatientObjects:
    """An ObjectSource that is asked in the background."""

    def __init__(self, object_source: ObjectSource, background: Background) -> None:
        self._object_source = object_source
        self._background = background

    def get(self, ref: ObjectRef, *, offset: int = 0, length: int | None = None) -> bytes:
        return self._background.call(lambda: self._object_source.get(ref, offset=offset, length=length))
