"""What is not in a backup on purpose, or is another file system now: an exact restore leaves it alone. And what should
be in a backup and is not, because its file system is not mounted."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import pytest

from engine.errors import FormatError
from engine.tree_entries import Marks
from engine.tree_facts import excludes_of
from engine.tree_restore import RestoreProblemKind
from engine.tree_walk import ProblemKind, TreeOptions
from tests.engine.chunk_support import entries_of, read_tree, write_tree
from tests.engine.support import Vault
from tests.engine.tree_support import source, target

__all__ = ["source", "target"]


def made(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode())


def test_an_exact_restore_keeps_what_the_backup_excluded(source: Path, target: Path) -> None:
    made(source, "a", "cache/1", "state/keys", "folder/b.tmp", "folder/b")
    vault = Vault()
    saved = write_tree(vault, source, options=TreeOptions(exclude=("/state/", "cache/", "*.tmp")))
    read_tree(vault, saved, target)
    made(target, "state/keys", "cache/1", "b.tmp", "extra", "new/cache/1", "new/other", "folder/x/b.tmp", "folder/y/z")

    result = read_tree(vault, saved, target, differential=True, delete_extra=True)

    left = {str(path.relative_to(target)) for path in target.rglob("*") if path.is_file()}
    kept = {"state/keys", "cache/1", "b.tmp", "new/cache/1", "folder/x/b.tmp"}
    assert left == {"a", "folder/b", *kept}
    assert result.deleted_count == 2 and not result.problem_counts  # `extra` and `folder/y`
    # A directory where the backup has a file gives way only when nothing of that sort is in it.
    (target / "a").unlink()
    made(target, "a/b.tmp")
    result = read_tree(vault, saved, target, differential=True, delete_extra=True)
    assert (target / "a" / "b.tmp").exists() and result.problem_counts == {RestoreProblemKind.NOT_MADE: 1}


def test_excludes_that_cannot_be_read_stop_a_restore() -> None:
    with pytest.raises(FormatError):
        excludes_of({"excludes": "*.tmp"})


def mounted_restore(folder: Path) -> None:
    """In a mount namespace of its own. `nas` and `later` are plain directories in the backup, and mounts now."""
    libc = ctypes.CDLL(None, use_errno=True)

    def mount(source: Path, target: Path, flags: int, kind: bytes | None = None) -> None:
        target.mkdir(exist_ok=True)
        words = os.fsencode(source), os.fsencode(target), kind, ctypes.c_ulong(flags), None
        assert libc.mount(*words) == 0, os.strerror(ctypes.get_errno())

    assert libc.unshare(0x20000) == 0
    assert libc.mount(b"none", b"/", None, ctypes.c_ulong(16384 | 1 << 18), None) == 0
    source, target, other = (folder / name for name in ("source", "target", "other"))
    made(source, "nas/hidden", "later/inside", "kept/f", "file")
    (source / "nas").chmod(0o700)
    vault = Vault()
    saved = write_tree(vault, source, options=TreeOptions(covered=(b"nas",)))
    assert [e.path for e in entries_of(vault, saved) if e.marks & Marks.NOT_ENTERED] == [b"nas"]
    target.mkdir()
    read_tree(vault, saved, target)
    assert (target / "nas" / "hidden").exists()
    made(target, "nas/extra", "extra/deep/file")
    read_tree(vault, saved, target, differential=True, delete_extra=True)
    assert (target / "nas" / "extra").exists() and not (target / "extra").exists()

    made(other, "precious")
    mount(folder, target / "nas", 0, b"tmpfs")
    made(target, "nas/live")
    # Of the same file system: no device number tells.
    for name in ("later", "new", "extra"):
        made(target, f"{name}/below")
        mount(other, target / name, 4096)
    result = read_tree(vault, saved, target, differential=True, delete_extra=True)

    assert (target / "nas" / "live").exists() and not (target / "nas" / "hidden").exists()
    assert (target / "nas").stat().st_mode & 0o777 != 0o700
    assert (target / "later" / "inside").exists() and (other / "precious").exists()
    assert result.problem_counts == {RestoreProblemKind.NOT_MADE: 1, RestoreProblemKind.NOT_DELETED: 2}


@pytest.mark.case("RS-14")
@pytest.mark.skipif(os.geteuid() != 0, reason="mounts are for root alone")
def test_an_exact_restore_deletes_nothing_on_another_mount(tmp_path: Path) -> None:
    if subprocess.run(["unshare", "-m", "true"], check=False, capture_output=True).returncode:
        pytest.skip("no mounts may be made here")
    program = "import sys, pathlib; from tests.engine.test_tree_left_out import mounted_restore as run; "
    done = subprocess.run(
        [sys.executable, "-c", program + "run(pathlib.Path(sys.argv[1]))", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 0, done.stderr


def test_a_file_system_that_is_not_mounted_is_missed_until_its_directory_is_gone(source: Path) -> None:
    made(source, "data/f", "srv/f", "f")
    vault = Vault()
    first = write_tree(vault, source, options=TreeOptions(mounts=(b"", b"data", b"srv")))
    assert not first.problem_counts

    second = write_tree(vault, source, base=first, options=TreeOptions(mounts=(b"", b"srv")))
    assert [(one.path, one.kind) for one in second.problems] == [(b"data", ProblemKind.NOT_MOUNTED)]
    # It is missed on, also against the backup that lacked it; the root as well.
    third = write_tree(vault, source, base=second, options=TreeOptions(mounts=(b"srv",)))
    assert [one.path for one in third.problems] == [b"", b"data"]
    gone = write_tree(vault, source, base=third, options=TreeOptions(mounts=(b"", b"srv"), exclude=("/data/",)))
    assert not gone.problem_counts
    back = write_tree(vault, source, base=third, options=TreeOptions(mounts=(b"", b"data", b"srv")))
    assert not back.problem_counts


def test_what_changed_around_the_moment_of_a_snapshot_is_read_again(source: Path) -> None:
    """The tree is walked long after the snapshot was taken; only that moment says what its clock can tell."""
    made(source, "f")
    moment = (source / "f").stat().st_ctime_ns
    vault = Vault()
    [early] = entries_of(vault, write_tree(vault, source, options=TreeOptions(moment_ns=moment + 1)))
    [late] = entries_of(vault, write_tree(vault, source, options=TreeOptions(moment_ns=moment + 10**10)))
    assert early.marks & Marks.FRESH and not late.marks & Marks.FRESH
