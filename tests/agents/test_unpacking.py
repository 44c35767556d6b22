"""An update's archive is unpacked by any Python that the program may be frozen with, and only into its own folder."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from agents.program.agent.errors import UpdateError
from agents.program.agent.update import _unpack


def archive(folder: Path, *members: tarfile.TarInfo, data: bytes = b"program") -> Path:
    path = folder / "release.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        for member in members:
            member.size = len(data) if member.isreg() else 0
            tar.addfile(member, io.BytesIO(data))
    return path


def member(name: str, **changes: object) -> tarfile.TarInfo:
    found = tarfile.TarInfo(name)
    for field, value in changes.items():
        setattr(found, field, value)
    return found


def test_it_needs_no_filter_of_a_newer_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python 3.11.2, of Debian 12, has none: a program with it could not be updated."""
    monkeypatch.delattr(tarfile, "data_filter", raising=False)
    owned = {"uid": 4711, "gid": 4711, "mode": 0o6777}
    made = archive(
        tmp_path, member("bin", type=tarfile.DIRTYPE), member("bin/agent", **owned), member("./deep/er/text")
    )

    _unpack(made, tmp_path / "to")

    program, text = tmp_path / "to/bin/agent", tmp_path / "to/deep/er/text"
    assert program.read_bytes() == text.read_bytes() == b"program"
    assert (program.stat().st_mode & 0o7777, text.stat().st_mode & 0o7777) == (0o755, 0o644)
    assert program.stat().st_uid == tmp_path.stat().st_uid


@pytest.mark.parametrize(
    "members",
    [
        [member("../outside")],
        [member("/tmp/outside-of-it")],
        [member("in/../../outside")],
        [member("link", type=tarfile.SYMTYPE, linkname="..")],
        [member("link", type=tarfile.LNKTYPE, linkname="release.tar.gz")],
        [member("pipe", type=tarfile.FIFOTYPE)],
        [member("device", type=tarfile.CHRTYPE)],
        [member("twice"), member("twice")],
        [member("file"), member("file/below")],
    ],
)
def test_what_is_no_file_or_folder_inside_of_it_is_refused(tmp_path: Path, members: list[tarfile.TarInfo]) -> None:
    with pytest.raises((UpdateError, OSError)):
        _unpack(archive(tmp_path, *members), tmp_path / "to")
    assert {path.name for path in tmp_path.iterdir()} == {"release.tar.gz", "to"}
    assert not any(path.is_symlink() for path in (tmp_path / "to").rglob("*"))
