"""Which blocks of each leaf may differ from the base, and which of these must be read. Streams; never a list of all."""

from __future__ import annotations

from collections.abc import Iterable

from engine.backup import WriteContext
from engine.patience import PatientSource
from engine.scan import Extent, Run, RunsByLeaf, block_runs, intersect, union


class LeafPlanner:
    """Ask leaf by leaf, ascending: first `touched`, then `to_read` if there is anything to look at."""

    def __init__(
        self, *, source: PatientSource, context: WriteContext, block_count: int, base_size_bytes: int | None
    ) -> None:
        self._block_size = context.block_size
        self._size_bytes = source.size_bytes
        self._block_count = block_count
        changed = source.changed_extents() if base_size_bytes is not None else None
        self.knows_changes = changed is not None
        touched: Iterable[Run] = [(0, block_count)] if block_count else []
        if changed is not None and base_size_bytes is not None:
            touched = union(self._runs(changed), self._resized_runs(base_size_bytes))
        self._touched = RunsByLeaf(touched, fan_out=context.fan_out)
        self._allocated = RunsByLeaf(self._runs(source.extents()), fan_out=context.fan_out)

    def touched(self, leaf: int) -> list[Run]:
        """Slots of the leaf that may differ from the base."""
        return self._touched.take(leaf)

    def to_read(self, leaf: int, touched: Iterable[Run]) -> list[Run]:
        """Those of the slots that hold data; the others read as zeros."""
        return list(intersect(touched, self._allocated.take(leaf)))

    def _resized_runs(self, base_size_bytes: int) -> list[Run]:
        """Where the image was cut or has grown: its last common block differs in length, the rest is new.

        The last block is always among them, so that the leaf with the end of a cut image is written anew.
        """
        if base_size_bytes == self._size_bytes or not self._block_count:
            return []
        first = min(base_size_bytes // self._block_size, self._block_count - 1)
        return [(first, self._block_count)]

    def _runs(self, extents: Iterable[Extent]) -> Iterable[Run]:
        return block_runs(extents, block_size=self._block_size, size_bytes=self._size_bytes)
