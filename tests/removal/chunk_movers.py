"""Streams and file trees in the small world: the same blocks as of a disk, sent by the writers of chunks.

A block of the image stands for 512 bytes of noise that follow from it, so that a change of a few bytes changes all of
it. A tree has one file per block, but for the first eight: they are one file with a map of chunks of its own.
"""

from __future__ import annotations

import io
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from agents.models import Disk
from definitions.models import Definition
from engine.stream_restore import restore_stream
from engine.stream_writer import write_stream_backup
from engine.tree_restore import restore_tree
from engine.tree_writer import write_tree_backup
from engine.writer import WriteResult
from tests import factories
from tests.engine.chunk_support import NEVER_FRESH, SMALL
from tests.engine.support import noise
from tests.removal.real_writer import BLOCK, Mover
from tests.removal.world import World

_DRIVERS = {"disk": "image", "stream": "postgresql", "tree": "filesystem"}
_BLOCKS_OF_LARGE = 8


class StreamMover(Mover):
    def __init__(self, world: World, image: bytearray, definition: Definition | None = None) -> None:
        super().__init__(world, image, definition=definition)
        self._blocks: dict[bytes, bytes] = {}

    def _send(self, **arguments: Any) -> WriteResult:
        return write_stream_backup(source=io.BytesIO(self._content()), sizes=SMALL, **arguments)

    def _read(self, **arguments: Any) -> bytes:
        output = io.BytesIO()
        restore_stream(output=output, **arguments)
        return self._image_of(output.getvalue())

    def image_at(self, target: Path) -> bytes:
        """The image for which what was restored there stands."""
        files = sorted(target.iterdir()) if target.is_dir() else [target]
        return self._image_of(b"".join(path.read_bytes() for path in files))

    def _content(self) -> bytes:
        return b"".join(self._noise(bytes(self.image[at : at + BLOCK])) for at in range(0, len(self.image), BLOCK))

    def _noise(self, block: bytes) -> bytes:
        found = noise(BLOCK, block.hex())
        self._blocks[found] = block
        return found

    def _image_of(self, content: bytes) -> bytes:
        """What a block that nobody has written stands for is no block of any image."""
        return b"".join(self._blocks.get(content[at : at + BLOCK], b"?") for at in range(0, len(content), BLOCK))


class TreeMover(StreamMover):
    def __init__(self, world: World, image: bytearray, root: Path, definition: Definition | None = None) -> None:
        super().__init__(world, image, definition)
        self._root = root
        self._files: dict[str, bytes] = {}
        self._changes = 0

    def _send(self, **arguments: Any) -> WriteResult:
        self._change_files()
        # Files of a few chunks have a map, too.
        with mock.patch("engine.tree_queue.INLINE_CHUNKS_MAX", 3):
            return write_tree_backup(root=self._root, sizes=SMALL, now_ns=lambda: NEVER_FRESH, **arguments).write

    def _read(self, **arguments: Any) -> bytes:
        with tempfile.TemporaryDirectory(dir=self._root.parent) as target:
            restore_tree(target=target, **arguments)
            return self.image_at(Path(target))

    def _change_files(self) -> None:
        """Each change has a time of its own: the clock of a file system is coarse."""
        for name, data in self._named():
            if self._files.get(name) != data:
                self._changes += 1
                (self._root / name).write_bytes(data)
                os.utime(self._root / name, ns=(self._changes, self._changes))
                self._files[name] = data

    def _named(self) -> Iterator[tuple[str, bytes]]:
        content, at = self._content(), 0
        while at < len(content):
            size = BLOCK * (1 if at else _BLOCKS_OF_LARGE)
            yield f"{at:06d}", content[at : at + size]
            at += size


@contextmanager
def mover_of(world: World, content: str, image: bytearray, *, own_disk: bool = False) -> Iterator[Mover]:
    """A mover of a disk, stream or tree: the world's, which becomes one, or with `own_disk` another of the server."""
    definition = world.definition
    if own_disk:
        factories.make_disk(definition.disk.server)
        disk = definition.disk.server.disks.latest("number")
        definition = Definition.objects.create(
            tenant=definition.tenant, disk=disk, vault=world.vault, name=content, cron="0 22 * * *"
        )
    Disk.objects.filter(pk=definition.disk.pk).update(driver=_DRIVERS[content])
    definition.disk.refresh_from_db()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "root"
        root.mkdir()
        if content == "tree":
            yield TreeMover(world, image, root, definition)
        elif content == "stream":
            yield StreamMover(world, image, definition)
        else:
            yield Mover(world, image, definition=definition)
