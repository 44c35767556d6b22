"""What is said of single files, in few words: the first ones by name, all of them by number."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from agents.drivers.base import Warned
from engine.tree_report import RestoreProblem, RestoreProblemKind, TreeRestoreResult
from engine.tree_walk import Problem, ProblemKind
from engine.tree_writer import TreeWriteResult

_NAMED = 5
_LONGEST_NAME = 80
# code, of one, of several
_READING: Mapping[ProblemKind, tuple[str, str]] = {
    ProblemKind.CHANGED: ("files_changed", "changed while read: what is stored of them is of no single moment"),
    ProblemKind.UNREADABLE: ("files_unreadable", "could not be read, and are not in the backup with all their content"),
    ProblemKind.VANISHED: ("files_vanished", "went away while the tree was read, and are not in the backup"),
    ProblemKind.METADATA: ("metadata_unreadable", "are stored without their extended attributes"),
    ProblemKind.NOT_MOUNTED: (
        "mount_missing",
        "had a file system of its own in the last backup, and has none now, so its files are not in the backup. Mount "
        "it; if it is gone for good, remove the directory or exclude it",
    ),
    ProblemKind.LINK: ("links_as_files", "are stored as files of their own although they are hard links"),
}
_RESTORING: Mapping[RestoreProblemKind, tuple[str, str]] = {
    RestoreProblemKind.NOT_MADE: ("files_not_made", "could not be made"),
    RestoreProblemKind.METADATA: ("metadata_not_set", "did not get all of their owner, rights, times or attributes"),
    RestoreProblemKind.NOT_IN_BACKUP: ("not_in_backup", "could not be read when they were backed up: left out"),
    RestoreProblemKind.NOT_DELETED: ("files_not_deleted", "are not in the backup and could not be removed"),
    RestoreProblemKind.CHANGED: ("changed_at_backup", "changed while they were backed up: of no single moment"),
}


def problems_of_backup(result: TreeWriteResult) -> tuple[Warned, ...]:
    return tuple(
        _warned(*words, count=result.problem_counts.get(kind, 0), found=_of_kind(result.problems, kind))
        for kind, words in _READING.items()
        if result.problem_counts.get(kind, 0)
    )


def problems_of_restore(result: TreeRestoreResult) -> tuple[Warned, ...]:
    """With damaged files and lost names first."""
    return (*_damage(result), *_problems(result))


def _problems(result: TreeRestoreResult) -> Iterable[Warned]:
    for kind, words in _RESTORING.items():
        if count := result.problem_counts.get(kind, 0):
            yield _warned(*words, count=count, found=_of_kind(result.problems, kind))


def _damage(result: TreeRestoreResult) -> Iterable[Warned]:
    for one in result.damaged_files[:_NAMED]:
        places = ", ".join(f"{length} bytes at {offset}" for offset, length in one.ranges[:_NAMED])
        yield Warned("file_damaged", f"{shown_path(one.path)}: zeros in place of {places}.")
    if len(result.damaged_files) > _NAMED:
        yield Warned("files_damaged", f"{len(result.damaged_files) - _NAMED} more files are damaged.")
    for lost in result.lost_entries[:_NAMED]:
        before = f" and before {shown_path(lost.next_path)}" if lost.next_path is not None else ""
        yield Warned("names_lost", f"Names from {shown_path(lost.path)} on{before} cannot be read: {lost.count} rows.")


def _of_kind(problems: Sequence[Problem] | Sequence[RestoreProblem], kind: object) -> list[tuple[bytes, str]]:
    return [(one.path, one.reason) for one in problems if one.kind == kind]


def _warned(code: str, words: str, *, count: int, found: Sequence[tuple[bytes, str]]) -> Warned:
    names = ", ".join(f"{shown_path(path)} ({reason})" for path, reason in found[:_NAMED])
    more = f" and {count - _NAMED} more" if count > _NAMED else ""
    return Warned(code, f"{count} {'name' if count == 1 else 'names'}: {words}. {names}{more}")


def shown_path(path: bytes) -> str:
    """A path as text that any database, terminal and JSON can hold, its end when it is long."""
    text = plain(path.decode("utf-8", "surrogateescape")) or "the root"
    return text if len(text) <= _LONGEST_NAME else f"...{text[3 - _LONGEST_NAME :]}"


def plain(text: str) -> str:
    """Without signs that begin a line, speak to a terminal, turn the direction of writing, or cannot be encoded: any
    user may have them in names of theirs. They are shown as a program would write them."""
    return "".join(sign if sign.isprintable() else _escaped(sign) for sign in text)


def _escaped(sign: str) -> str:
    is_byte = "\udc80" <= sign <= "\udcff"
    return f"\\x{ord(sign) - 0xDC00:02x}" if is_byte else sign.encode("unicode_escape").decode("ascii")
