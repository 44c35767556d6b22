"""The built agent as a .deb, in var/agent beside its archive: `make agent-build ARGS="--deb"`, or of a release that was
built before: `python tools/agent/package.py`.

    /opt/backupsite-agent/releases/NUMBER/    bin/, run.sh and the rest of the archive but its wheels
    /opt/backupsite-agent/run.sh              what the unit calls
    /usr/sbin/backupsite-agent                a link to the release that is current
    /usr/lib/systemd/system/                  the unit, not enabled
    /etc/backupsite-agent/hooks.d             empty, root's alone

The link `current` is no file of the package: the agent updates itself, and changes it. The scripts in tools/agent/deb
enrol nothing. Needs dpkg-deb. The same release makes the same bytes.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = ROOT / "tools" / "agent" / "deb"
NAME = "backupsite-agent"
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "armhf", "i686": "i386"}
CONTROL = """Package: {name}
Version: {version}-{number}
Architecture: {architecture}
Maintainer: backupsite
Installed-Size: {size_kib}
Depends: libc6 (>= {c_library}), ca-certificates
Section: admin
Priority: optional
Description: backup agent of a protected server
 Backs up the whole server to an immutable vault, and restores from it. It listens
 on no port. After it is installed it has to be enrolled: backupsite-agent enrol.
"""
COPYRIGHT = """Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/
Upstream-Name: {name}

Files: *
Copyright: the authors of backupsite
License: Apache-2.0
 See /usr/share/doc/{name}/LICENSE; of the libraries in it: THIRD_PARTY.md beside it.
"""


class NotPackagedError(Exception):
    """There is no built release, it is another one than its release.json says, or dpkg-deb fails."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "var" / "agent", help="where the archive is")
    try:
        made = build_deb(parser.parse_args().out)
    except NotPackagedError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(f"{made}: {made.stat().st_size >> 20} MiB\n")
    return 0


def build_deb(out: Path) -> Path:
    """Of the release that `out`/release.json names. NotPackagedError."""
    told = _told(out)
    with tempfile.TemporaryDirectory(prefix="agent-deb-", dir=out) as folder:
        tree = Path(folder) / "tree"
        _lay_out(tree, out / told["file"], told)
        _describe(tree, told)
        made = out / f"{NAME}_{told['version']}-{told['number']}_{_architecture()}.deb"
        # As the archive: the minute that its number stands for, whenever it is packaged.
        variables = {**os.environ, "SOURCE_DATE_EPOCH": str(int(told["number"]) * 60)}
        # Older systems cannot read what newer ones would compress by.
        words = ["dpkg-deb", "--root-owner-group", "-Zxz", "-z3", "--build", str(tree), str(made)]
        try:
            subprocess.run(words, env=variables, stdout=subprocess.DEVNULL, check=True)  # noqa: S603  # own words
        except (OSError, subprocess.CalledProcessError) as error:
            raise NotPackagedError(f"dpkg-deb: {error}") from error
    return made


def _told(out: Path) -> dict[str, Any]:
    try:
        told: dict[str, Any] = json.loads((out / "release.json").read_text())
        found = hashlib.sha256((out / told["file"]).read_bytes()).hexdigest()
    except (OSError, ValueError, KeyError) as error:
        raise NotPackagedError(f"there is no built release in {out} (make agent-build): {error}") from error
    if found != told["sha256"]:
        raise NotPackagedError(f"{told['file']} is not the file of release.json: its SHA-256 is another one")
    return told


def _lay_out(tree: Path, archive: Path, told: dict[str, Any]) -> None:
    programs = tree / "opt" / NAME
    release = programs / "releases" / str(told["number"])
    release.mkdir(parents=True)
    with tarfile.open(archive) as tar:
        members = [one for one in tar if not one.name.startswith("wheels")]
        tar.extractall(release, members=members, filter="tar")
    shutil.copy(release / "run.sh", programs / "run.sh")
    (programs / "run.sh").chmod(0o755)
    units = tree / "usr/lib/systemd/system"
    units.mkdir(parents=True)
    shutil.copy(release / f"{NAME}.service", units / f"{NAME}.service")
    (units / f"{NAME}.service").chmod(0o644)
    (tree / "usr/sbin").mkdir()
    (tree / "usr/sbin" / NAME).symlink_to(f"/opt/{NAME}/current/bin/{NAME}")
    hooks = tree / "etc" / NAME / "hooks.d"
    hooks.mkdir(parents=True)
    documents = tree / "usr/share/doc" / NAME
    documents.mkdir(parents=True)
    (documents / "copyright").write_text(COPYRIGHT.format(name=NAME))
    for name in ("LICENSE", "THIRD_PARTY.md"):
        shutil.copy(ROOT / name, documents / name)
    for folder, _, files in os.walk(tree):
        Path(folder).chmod(0o755)
        for path in (Path(folder) / name for name in files):
            # Whatever the umask of who builds it is.
            if not path.is_symlink():
                path.chmod(0o755 if path.stat().st_mode & 0o100 else 0o644)
    hooks.chmod(0o700)
    hooks.parent.chmod(0o700)


def _describe(tree: Path, told: dict[str, Any]) -> None:
    files = sorted(path for path in tree.rglob("*") if path.is_file() and not path.is_symlink())
    sums = (f"{_md5(path)}  {path.relative_to(tree)}\n" for path in files)
    size_bytes = sum(path.stat().st_size for path in files)
    control = tree / "DEBIAN"
    control.mkdir()
    (control / "md5sums").write_text("".join(sums))
    (control / "control").write_text(
        CONTROL.format(
            name=NAME,
            version=told["version"],
            number=told["number"],
            architecture=_architecture(),
            size_kib=(size_bytes + 1023) // 1024,
            c_library=_c_library(told),
        )
    )
    for script in sorted(SCRIPTS.iterdir()):
        (control / script.name).write_text(script.read_text().replace("@NUMBER@", str(int(told["number"]))))
        (control / script.name).chmod(0o755)
    control.chmod(0o755)
    for name in ("control", "md5sums"):
        (control / name).chmod(0o644)


def _md5(path: Path) -> str:
    """What dpkg --verify compares with; it protects from nothing."""
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()


def _architecture() -> str:
    machine = platform.machine()
    return _ARCHITECTURES.get(machine, machine)


def _c_library(told: dict[str, Any]) -> str:
    found = re.fullmatch(r"glibc (\d+\.\d+)", told.get("c_library", ""))
    if found is None:
        raise NotPackagedError("release.json does not say what C library the program needs")
    return found[1]


if __name__ == "__main__":
    sys.exit(main())
