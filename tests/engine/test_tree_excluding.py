"""Any tree under any patterns comes back as what is left of it, hard links across what is left out included."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.tree_walk import TreeOptions
from tests.engine.chunk_support import read_tree, snapshot, write_tree
from tests.engine.support import Vault, noise

# Pattern -> whether it means a name, from the names on the way to it and whether it is a directory.
_PATTERNS: dict[str, Callable[[list[bytes], bool], bool]] = {
    "*.x": lambda names, _: names[-1].endswith(b".x"),
    "/a/": lambda names, is_folder: names == [b"a"] and is_folder,
    "b/": lambda names, is_folder: names[-1] == b"b" and is_folder,
    "/a/b": lambda names, _: names == [b"a", b"b"],
    "b": lambda names, _: names[-1] == b"b",
    "/b/*": lambda names, _: len(names) == 2 and names[0] == b"b",
    "a/**/c.x": lambda names, _: len(names) > 1 and names[0] == b"a" and names[-1] == b"c.x",
}
_NAMES = st.sampled_from([b"a", b"b", b"c.x", b"d", b"\xff"])
_TREES = st.recursive(
    st.dictionaries(_NAMES, st.sampled_from(["file", "link", "link"]), min_size=1, max_size=5),
    lambda inner: st.dictionaries(_NAMES, st.one_of(inner, st.sampled_from(["file", "link"])), min_size=2, max_size=5),
    max_leaves=20,
)


def make(folder: bytes, tree: dict[bytes, Any], files: list[bytes]) -> None:
    for name, what in tree.items():
        path = folder + b"/" + name
        if isinstance(what, dict):
            os.mkdir(path)
            make(path, what, files)
        elif what == "link" and files:
            os.link(files[len(files) // 2], path)
        else:
            with open(path, "wb") as file:
                file.write(noise(300, path[-9:].hex()))
            files.append(path)


def left(found: dict[bytes, tuple[Any, ...]], patterns: list[str]) -> dict[bytes, tuple[Any, ...]]:
    """What the patterns leave of a snapshot; the first name of a file is the first of those that are left."""
    folders = {name for name, facts in found.items() if facts[0] == 0o040000}
    kept: dict[bytes, tuple[Any, ...]] = {}
    first: dict[bytes, bytes] = {}
    for name, facts in found.items():
        names = name.split(b"/")[1:]
        ways = [(names[:depth], b"/" + b"/".join(names[:depth]) in folders) for depth in range(1, len(names) + 1)]
        if not any(_PATTERNS[pattern](*way) for way in ways for pattern in patterns):
            kept[name] = (*facts[:-1], first.setdefault(facts[-1], name))
    return kept


@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
@given(_TREES, *[st.lists(st.sampled_from(sorted(_PATTERNS)), max_size=3)] * 2)
def test_what_patterns_leave_of_any_tree_comes_back(tree: dict[bytes, Any], one: list[str], other: list[str]) -> None:
    """A full backup, and one over it with other patterns: what they let in again is there, what they leave out gone."""
    vault, base = Vault(), None
    with tempfile.TemporaryDirectory() as scratch:
        source = f"{scratch}/source".encode()
        os.mkdir(source)
        make(source, tree, [])
        for number, patterns in enumerate([one, other]):
            target = f"{scratch}/target{number}".encode()
            os.mkdir(target)
            base = write_tree(vault, source, base=base, options=TreeOptions(exclude=tuple(patterns)))
            read_tree(vault, base, target)
            assert snapshot(target) == left(snapshot(source), patterns)
            assert not base.has_warnings
