"""Updates of the program itself: checked, put beside the running one, switched to at once, and back when it is no good.

    <programs>/releases/<number>/    a release, unpacked; never changed after it has its name
    <programs>/current               a symbolic link to the one that runs
    <programs>/trial                 "NUMBER PREVIOUS STARTS" while a new one has not reported in

A release is taken when the release key that was pinned at enrolment signed it, its number is higher than any that ran
here, and size and SHA-256 are right. The control plane cannot sign one. A new release has to poll successfully within
some minutes; otherwise it goes back itself, and `tools/agent/run.sh`, which starts the program and is no part of a
release, goes back when it does not even start.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import msgspec

from agents.agent_messages import ReleaseManifest, UpdateOffer
from agents.answer_signing import is_release_signed
from agents.program.agent.errors import UpdateError
from agents.program.agent.files import sync_folder, write_whole

logger = logging.getLogger(__name__)

TRIAL_SECONDS = 600.0
_LARGEST_RELEASE_BYTES = 512 * 1024 * 1024
# A release, its archive, and room for what the server itself writes meanwhile.
_ROOM = 4
_START_SECONDS = 60
_FILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,120}\Z")
# A wheel that is for one Python: what a release needs and has for some versions only.
_WHEEL = re.compile(r"-cp3([0-9]{1,2})-cp3\1-")
_TRIAL = re.compile(r"([0-9]{1,9}) ([0-9]{1,9}) ([0-9]{1,3})\s*\Z")
PROGRAM = Path("bin/backupsite-agent")


class Fetch(Protocol):
    """Download a release's file; returns the SHA-256 of what came, empty for another size."""

    def __call__(self, file: str, to: Path, *, size_bytes: int) -> str: ...


@dataclass(frozen=True, slots=True)
class Trial:
    number: int
    previous: int
    starts: int


@dataclass(frozen=True, slots=True)
class Installation:
    """The releases of one machine. `current` is the number that the link shows, 0 for none."""

    programs: Path

    @property
    def link(self) -> Path:
        return self.programs / "current"

    @property
    def current(self) -> int:
        try:
            name = os.path.basename(os.readlink(self.link))  # noqa: PTH115, PTH119  # the text of the link, not a path
        except OSError:
            return 0
        return int(name) if name.isdigit() else 0

    def folder(self, number: int) -> Path:
        return self.programs / "releases" / str(number)

    def trial(self) -> Trial | None:
        try:
            found = _TRIAL.match((self.programs / "trial").read_text())
        except OSError:
            return None
        return Trial(int(found[1]), int(found[2]), int(found[3])) if found else None

    def switch(self, number: int) -> None:
        """The link shows the other release at once, or still the old one."""
        beside = self.programs / f".current.{os.getpid()}"
        with suppress(FileNotFoundError):
            beside.unlink()
        beside.symlink_to(Path("releases") / str(number))
        os.replace(beside, self.link)  # noqa: PTH105  # as files.write_whole
        sync_folder(self.programs)

    def begin_trial(self, number: int) -> None:
        write_whole(self.programs / "trial", f"{number} {self.current} 0\n".encode(), mode=0o644)
        self.switch(number)

    def confirm(self) -> None:
        """The new release reported in. Releases before the previous one are removed."""
        trial = self.trial()
        if trial is None:
            return
        (self.programs / "trial").unlink()
        for folder in (self.programs / "releases").iterdir():
            if folder.name not in {str(trial.number), str(trial.previous)}:
                shutil.rmtree(folder, ignore_errors=True)

    def go_back(self) -> int:
        """To the release before; the number of the one that failed. 0 when there is nothing to go back to."""
        trial = self.trial()
        if trial is None or not self.folder(trial.previous).is_dir():
            return 0
        self.switch(trial.previous)
        write_whole(self.programs / "failed", f"{trial.number}\n".encode(), mode=0o644)
        (self.programs / "trial").unlink()
        return trial.number

    def failed(self) -> int:
        """The last release that was gone back from, by the program or by what starts it."""
        try:
            text = (self.programs / "failed").read_text().strip()
        except OSError:
            return 0
        return int(text) if text.isdigit() and len(text) < 10 else 0


def checked_release(offer: UpdateOffer, *, release_key: bytes, running: int, failed: int) -> ReleaseManifest:
    """Raises UpdateError for what is not signed, not newer, or was tried here already."""
    if not release_key:
        raise UpdateError("This agent was enrolled without a key for releases; it is updated by hand.")
    if not is_release_signed(release_key, manifest=offer.manifest, signature=offer.signature):
        raise UpdateError("The release that was offered is not signed with the key pinned at enrolment.")
    try:
        manifest = msgspec.json.decode(offer.manifest, type=ReleaseManifest)
    except msgspec.DecodeError as error:
        raise UpdateError(f"The manifest of the release cannot be read: {error}.") from error
    if manifest.number <= max(running, failed):
        raise UpdateError(
            f"Release {manifest.number} is not newer than {max(running, failed)}, which was here already."
        )
    if not _FILE.match(manifest.file) or not 0 < manifest.size_bytes <= _LARGEST_RELEASE_BYTES:
        raise UpdateError("The manifest of the release names no file that can be one.")
    return manifest


def install_release(
    manifest: ReleaseManifest,
    installation: Installation,
    fetch: Fetch,
    *,
    prepare: Callable[[Path], None] | None = None,
) -> None:
    """Fetch, check, unpack beside the others, try whether it starts, and switch to it on trial. Raises UpdateError."""
    releases = installation.programs / "releases"
    releases.mkdir(parents=True, exist_ok=True)
    if shutil.disk_usage(releases).free < _ROOM * manifest.size_bytes:
        raise UpdateError(f"There is no room for release {manifest.number} in {releases}.")
    beside = releases / f".{manifest.number}.new"
    archive = releases / f".{manifest.number}.download"
    try:
        if fetch(manifest.file, archive, size_bytes=manifest.size_bytes) != manifest.sha256:
            raise UpdateError(f"The file of release {manifest.number} is not the one that was signed. It was removed.")
        shutil.rmtree(beside, ignore_errors=True)
        _unpack(archive, beside)
        (prepare or prepare_release)(beside)
        _check_starts(beside, manifest)
        shutil.rmtree(installation.folder(manifest.number), ignore_errors=True)
        beside.rename(installation.folder(manifest.number))
        sync_folder(releases)
    except OSError as error:
        raise UpdateError(f"Release {manifest.number} cannot be installed: {error}.") from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)
        archive.unlink(missing_ok=True)
    installation.begin_trial(manifest.number)
    logger.info("a release is on trial", extra={"number": manifest.number})


def prepare_release(folder: Path) -> None:
    """The frozen program where it runs here; else a virtual environment of the wheels beside it."""
    if _starts(folder / PROGRAM):
        return
    wheels = folder / "wheels"
    if not wheels.is_dir():
        raise UpdateError("The release has no program that starts here, and no wheels.")
    environment = folder / "environment"
    for words in (
        [_python(wheels), "-m", "venv", str(environment)],
        [str(environment / "bin/python"), "-m", "pip", "install", "--quiet", "--no-index", "--find-links",
         str(wheels), "backupsite-agent"],
    ):  # fmt: skip
        done = subprocess.run(words, capture_output=True, text=True, timeout=600, check=False)  # noqa: S603  # own words
        if done.returncode != 0:
            raise UpdateError(f"The release's wheels cannot be installed: {done.stderr.strip()[-300:]}")
    shutil.rmtree(folder / "bin", ignore_errors=True)
    (folder / "bin").mkdir()
    shutil.copy(folder / "backupsite-agent.sh", folder / PROGRAM)
    (folder / PROGRAM).chmod(0o755)


def _python(wheels: Path) -> str:
    """One that the release has wheels for: the one that runs this, else the newest here. Raises UpdateError."""
    own = "" if getattr(sys, "frozen", False) else getattr(sys, "_base_executable", "") or sys.executable
    minors = {int(found[1]) for path in wheels.glob("*.whl") if (found := _WHEEL.search(path.name))}
    names = [own, *(f"python3.{minor}" for minor in sorted(minors, reverse=True)), "python3"]
    for program in filter(None, map(shutil.which, filter(None, names))):
        if _minor(program) in minors:
            return program
    versions = ", ".join(f"3.{minor}" for minor in sorted(minors))
    raise UpdateError(f"The release needs Python {versions} with venv here, and there is none. Install one.")


def _minor(python: str) -> int:
    """The 11 of Python 3.11; -1 when it does not start or cannot make an environment."""
    asks = "import sys, venv, ensurepip; print(sys.version_info[1])"
    try:
        done = subprocess.run(  # noqa: S603  # a Python of this system, own words
            [python, "-I", "-c", asks], capture_output=True, text=True, timeout=_START_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return -1
    told = done.stdout.strip()
    return int(told) if done.returncode == 0 and told.isdigit() else -1


def _unpack(archive: Path, to: Path) -> None:
    """Files and folders that stay inside of `to`, and nothing else. Raises UpdateError.

    Written out: the filter of tarfile came with Python 3.11.4, and a program may be frozen with an older one.
    """
    to.mkdir(mode=0o755)
    try:
        with tarfile.open(archive) as tar:
            for member in tar:
                _unpack_member(tar, member, to)
    except (tarfile.TarError, EOFError) as error:
        raise UpdateError(f"The release cannot be unpacked: {error}.") from error


def _unpack_member(tar: tarfile.TarFile, member: tarfile.TarInfo, to: Path) -> None:
    """Without links no name leads out that has no dots in it."""
    parts = Path(member.name).parts
    content = tar.extractfile(member) if member.isreg() else None
    if (content is None and not member.isdir()) or ".." in parts or member.name.startswith("/"):
        raise UpdateError(f"The release cannot be unpacked: {member.name!r} is no file or folder inside of it.")
    path = to.joinpath(*parts)
    if content is None:
        path.mkdir(mode=0o755, parents=True, exist_ok=True)
        return
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    # "x": a second member of that name, or one in a file's place, is an error and replaces nothing.
    with content, open(path, "xb") as file:
        shutil.copyfileobj(content, file)
        os.fchmod(file.fileno(), 0o755 if member.mode & 0o100 else 0o644)


def _check_starts(folder: Path, manifest: ReleaseManifest) -> None:
    said = _starts(folder / PROGRAM)
    if manifest.version not in said.split():
        raise UpdateError(f"Release {manifest.number} does not start here, or is not version {manifest.version}.")


def _starts(program: Path) -> str:
    """What it says of its version; empty when it does not start."""
    try:
        done = subprocess.run(  # noqa: S603  # of the release that was checked
            [str(program), "--version"], capture_output=True, text=True, timeout=_START_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""
