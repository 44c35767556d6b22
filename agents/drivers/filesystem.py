"""Driver `filesystem`: any mounted file tree, such as a NAS over NFS or Samba, in a storage of the node.

There is no snapshot: files are read one after the other while people go on working. A file that changed while it was
read is named in the backup, and files are of different moments, which every backup says.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

from agents.drivers.base import (
    Capability,
    DiskWish,
    OpenedFolder,
    OpenedTree,
    ReadWish,
    SourceFacts,
    TargetFacts,
    Warned,
    WriteWish,
)
from agents.drivers.folders import held_tree, opened_folder, refuse_no_tree, tree_root
from engine.tree_walk import TreeOptions

_NOT_ONE_MOMENT = Warned(
    "not_one_moment",
    "The files were read one after the other, without a snapshot: what was written meanwhile is of different moments.",
)


class FilesystemDriver:
    """See the module."""

    name = "filesystem"

    def probe(self) -> Capability:
        return Capability(usable=True)

    @contextmanager
    def open_trees(self, wish: ReadWish) -> Iterator[Sequence[OpenedTree]]:
        with ExitStack() as held:
            trees = []
            for disk in wish.disks:
                root = tree_root(disk.address)
                held.enter_context(held_tree(root))
                refuse_no_tree(root)
                # A file that lies under the mount point must not pass for the tree, should the mount be missing.
                options = TreeOptions(mounts=(b"",) if root.is_mount() else ())
                trees.append(OpenedTree(root, SourceFacts(warnings=(_NOT_ONE_MOMENT,)), options))
            yield trees

    @contextmanager
    def open_folder(self, wish: WriteWish) -> Iterator[OpenedFolder]:
        root = tree_root(wish.address)
        with held_tree(root), opened_folder(root, wish.folder, create=wish.create) as path:
            yield OpenedFolder(path, TargetFacts())

    def forget(self, disks: Sequence[DiskWish]) -> Sequence[str]:
        """There are no points."""
        return ()
