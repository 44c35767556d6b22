"""The programs that are compared. Each knows how to make its repository, back the image up and restore it.

All encrypt and compress about as hard as they can be told to: ours and borg with zstd level 1; restic 0.14 knows
`auto`, `max` and `off` only, and `auto` is the fastest of its two zstd levels.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from engine.scan import Extent
from tests.bench.measured import Usage, run_measured
from tests.bench.places import BucketPlace, LocalPlace

_BORG_VERSION = "1.4.5"
# Only keeps the repositories of a bench closed; both tools want one.
_PASSPHRASE = "bench"


class Tool(Protocol):
    name: str

    def prepare(self) -> None:
        """Make an empty repository."""
        ...

    def back_up(self, image: Path, *, base: int | None, changed: Sequence[Extent] | None) -> Usage:
        """`base` and `changed` are for tools that can use them: what to compare with, what may differ from it."""
        ...

    def restore(self, target: Path, *, backup: int) -> Usage:
        """The backup with this number (from 0), into a new file."""
        ...


class Ours:
    name = "ours"

    def __init__(self, *, place: LocalPlace | BucketPlace, scratch: Path, block_size: int | None = None) -> None:
        self._store = _our_store(place)
        self._state = scratch / f"ours-{place.name}.json"
        self._block_size = block_size

    def prepare(self) -> None:
        """Nothing: the first backup makes the keys."""

    def back_up(self, image: Path, *, base: int | None, changed: Sequence[Extent] | None) -> Usage:
        extents = [(extent.offset, extent.length) for extent in changed] if changed is not None else None
        return self._run("backup", image=image, base=base, changed=extents)

    def restore(self, target: Path, *, backup: int) -> Usage:
        return self._run("restore", image=target, base=backup)

    def _run(self, job: str, *, image: Path, base: int | None, changed: object = None) -> Usage:
        order = {
            "store": self._store,
            "state": str(self._state),
            "image": str(image),
            "base": base,
            "changed": changed,
            "block_size": self._block_size,
        }
        durable = image.parent if job == "restore" else None
        return run_measured(
            [sys.executable, "-m", "tests.bench.ours", job], given=json.dumps(order), until_durable=durable
        )


def _our_store(place: LocalPlace | BucketPlace) -> dict[str, str]:
    if isinstance(place, LocalPlace):
        return {"path": str(place.folder("ours"))}
    signer = place.credentials["signer"]
    keys = {"access_key": signer.access_key, "secret_key": signer.secret_key}
    return {"url": place.url, "bucket": place.bucket("ours"), **keys}


class Restic:
    name = "restic"

    def __init__(self, *, place: LocalPlace | BucketPlace, scratch: Path) -> None:
        self._program = _needed_program("restic")
        self._env = {"RESTIC_PASSWORD": _PASSPHRASE, "RESTIC_CACHE_DIR": str(scratch / f"restic-cache-{place.name}")}
        if isinstance(place, LocalPlace):
            self._env["RESTIC_REPOSITORY"] = str(place.folder("restic"))
        else:
            credential = place.credentials["peer"]
            self._env["RESTIC_REPOSITORY"] = f"s3:{place.url}/{place.bucket('restic')}"
            self._env |= {"AWS_ACCESS_KEY_ID": credential.access_key, "AWS_SECRET_ACCESS_KEY": credential.secret_key}
            self._env["AWS_DEFAULT_REGION"] = "us-east-1"

    def prepare(self) -> None:
        self._run("init")

    def back_up(self, image: Path, *, base: int | None, changed: Sequence[Extent] | None) -> Usage:
        return self._run("backup", "--compression", "auto", str(image))

    def restore(self, target: Path, *, backup: int) -> Usage:
        """Always the newest one, and not sparse: version 0.14 cannot."""
        folder = target.with_suffix(".restic")
        usage = self._run("restore", "latest", "--target", str(folder), until_durable=target.parent)
        next(path for path in folder.rglob("*") if path.is_file()).rename(target)
        shutil.rmtree(folder)
        return usage

    def _run(self, *arguments: str, until_durable: Path | None = None) -> Usage:
        return run_measured([self._program, "--quiet", *arguments], env=self._env, until_durable=until_durable)


class Borg:
    """With its defaults, or (`fixed`) as its documentation advises for disk images: blocks of 4 MiB, holes skipped."""

    def __init__(self, *, place: LocalPlace, scratch: Path, program: str, fixed: bool = False) -> None:
        self.name = "borg-fixed" if fixed else "borg"
        self._program = program
        self._repository = place.folder(self.name)
        self._options = ("--sparse", "--chunker-params", "fixed,4194304") if fixed else ()
        self._count = 0
        self._env = {
            "BORG_PASSPHRASE": _PASSPHRASE,
            "BORG_BASE_DIR": str(scratch / f"{self.name}-base"),
            "BORG_REPO": str(self._repository),
        }

    def prepare(self) -> None:
        self._repository.parent.mkdir(parents=True, exist_ok=True)
        self._run("init", "--encryption", "repokey")

    def back_up(self, image: Path, *, base: int | None, changed: Sequence[Extent] | None) -> Usage:
        archive = f"::{self._count}"
        self._count += 1
        return self._run("create", "--compression", "zstd,1", *self._options, archive, str(image))

    def restore(self, target: Path, *, backup: int) -> Usage:
        folder = target.with_suffix(".borg")
        folder.mkdir()
        usage = self._run("extract", "--sparse", f"::{self._count - 1}", cwd=folder, until_durable=folder)
        next(path for path in folder.rglob("*") if path.is_file()).rename(target)
        shutil.rmtree(folder)
        return usage

    def _run(self, *arguments: str, cwd: Path | None = None, until_durable: Path | None = None) -> Usage:
        return run_measured([self._program, *arguments], env=self._env, cwd=cwd, until_durable=until_durable)


def version_of(program: str) -> str:
    """As the program says it itself, on one line."""
    arguments = ["version"] if Path(program).name == "restic" else ["--version"]
    return subprocess.run([program, *arguments], capture_output=True, text=True, check=True).stdout.strip()


def _needed_program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise RuntimeError(f"{name} is missing; install it with: apt-get install {name}")
    return found


def find_borg(folder: Path) -> str:
    """Borg from PyPI, built once into an environment of its own; else the one on the path.

    There are no wheels of it: it needs a C compiler and the packages of tools/apt-packages-bench.txt.
    """
    program = folder / "bin" / "borg"
    if not program.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        print(f"  ...     building borgbackup {_BORG_VERSION} from PyPI (once; a minute)", flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
        install = [str(folder / "bin" / "pip"), "install", "-q", "--disable-pip-version-check"]
        done = subprocess.run([*install, f"borgbackup=={_BORG_VERSION}"], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            (folder.parent / "borg-build.log").write_text(done.stdout + done.stderr)
            print(f"  note    it could not be built; see {folder.parent / 'borg-build.log'}")
            return _needed_program("borg")
    return os.path.abspath(program)
