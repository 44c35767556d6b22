"""What a backup of a file tree says of itself in the sealed part of its manifest: what was left out of it on purpose,
and where other file systems were mounted in it. Paths and patterns are bytes."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from pathspec import GitIgnoreSpec

from engine.errors import FormatError
from engine.stream_pages import KEY_SIZE_MAX
from engine.tree_entries import path_of

_EXCLUDES, _MOUNTS = "excludes", "mounts"


class Excludes:
    """Patterns as in a .gitignore file at the root of the tree."""

    def __init__(self, patterns: Sequence[str]) -> None:
        self._spec = GitIgnoreSpec.from_lines(patterns) if patterns else None

    def has(self, key: bytes, *, is_directory: bool) -> bool:
        """Of a path whose directories above are not excluded themselves."""
        if self._spec is None:
            return False
        path = os.fsdecode(path_of(key))
        return self._spec.match_file(path + "/" if is_directory else path)

    def may_lack(self, key: bytes, *, is_directory: bool) -> bool:
        """Whether no backup with these excludes has the path, although there may be something."""
        return len(key) > KEY_SIZE_MAX or self.has(key, is_directory=is_directory)


def told(*, excludes: Sequence[str], mounts: Collection[bytes]) -> dict[str, Any]:
    """For the manifest; empty where there is nothing to say."""
    facts = {_EXCLUDES: [os.fsencode(pattern) for pattern in excludes], _MOUNTS: sorted(mounts)}
    return {name: value for name, value in facts.items() if value}


def excludes_of(facts: Mapping[str, Any] | None) -> Excludes:
    """FormatError when they cannot be read: nobody knows then what is missing on purpose."""
    return Excludes([os.fsdecode(pattern) for pattern in _listed(facts, _EXCLUDES)])


def mounts_of(facts: Mapping[str, Any] | None) -> frozenset[bytes]:
    """Paths below the root, b"" for the root itself."""
    return frozenset(_listed(facts, _MOUNTS))


def _listed(facts: Mapping[str, Any] | None, name: str) -> list[bytes]:
    found = (facts or {}).get(name, [])
    if not isinstance(found, list) or not all(isinstance(one, bytes) for one in found):
        raise FormatError(f"the list of {name} in the manifest cannot be read")
    return found
