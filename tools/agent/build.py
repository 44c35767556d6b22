"""`make agent-build`: the agent program as one archive that needs nothing from elsewhere, in var/agent.

    bin/            the program with its own Python, frozen by PyInstaller; needs the C library of where it was frozen
                    or newer: this machine's, or that of an older system, which `--base` makes and keeps (base.sh)
    wheels/         the same as wheels, for servers with an older C library and a Python of 3.11 to 3.13
    run.sh, backupsite-agent.service, backupsite-agent.sh

Pins and hashes of what it needs are those of requirements.lock. Beside the archive: `release.json` (number, version,
file, size, SHA-256), from which a manifest is signed where the release key is (`--sign KEYFILE`); with `--deb` the same
release as a package of Debian (package.py).
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import platform
import re
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
NEEDS = (
    *("blake3", "cffi", "cryptography", "msgspec", "pathspec", "pycparser", "pyfastcdc", "typing-extensions", "tzdata"),
    "zstandard",
)
# What the wheels are for: the C library of RHEL 8 and newer, so Debian 11 and Ubuntu 20.04 too.
PYTHONS = ("3.11", "3.12", "3.13")
PLATFORMS = tuple(f"{name}_{platform.machine()}" for name in ("manylinux_2_28", "manylinux_2_17", "manylinux2014"))
PYINSTALLER = "pyinstaller==6.22.3"
# The Python of a base, as base.sh compiles it. The work folder is /mnt in there; its mounts end with the command.
BASE_PYTHON, BASE_VERSION = "/opt/python/bin/python3", "3.11"
INSIDE = (
    'mount -t proc proc "$1/proc" && mount --bind "$2" "$1/mnt" && base="$1" && shift 2 && exec chroot "$base" "$@"'
)
SOURCES = ("engine", "agents/drivers", "agents/program")
FILES = (
    "agents/__init__.py",
    "agents/agent_messages.py",
    "agents/answer_signing.py",
    "agents/signing.py",
    "agents/protocol.py",
)
# Found at run time by their names.
HIDDEN = ("agents.drivers.host", "tzdata")
PROJECT = """[project]
name = "backupsite-agent"
version = "{version}"
requires-python = "{pythons}"
license = "Apache-2.0"
dependencies = [{needs}]
[project.scripts]
backupsite-agent = "agents.program.agent.cli:main"
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"
[tool.hatch.build.targets.wheel]
packages = ["engine", "agents"]
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "var" / "agent")
    parser.add_argument("--number", type=int, default=int(time.time()) // 60, help="of the release; only grows")
    parser.add_argument("--base", metavar="RELEASE", help="freeze in this older Debian, such as bullseye; needs root")
    parser.add_argument("--version", help="another one than the program's own, to try an update out")
    parser.add_argument("--deb", action="store_true", help="make a .deb of it, too; needs dpkg-deb")
    parser.add_argument("--sign", type=Path, metavar="KEYFILE", help="a private Ed25519 key, 32 bytes")
    options = parser.parse_args()
    version = options.version or _version(ROOT)
    out: Path = options.out
    work = out / "work"
    shutil.rmtree(work, ignore_errors=True)
    (work / "tree").mkdir(parents=True)
    sources = _sources(work / "source", version)
    _wheels(work, sources)
    place = Base(work, _base(options.base)) if options.base else Here(work)
    _frozen(place)
    for name in ("run.sh", "backupsite-agent.service", "backupsite-agent.sh"):
        shutil.copy(ROOT / "tools" / "agent" / name, work / "tree" / name)
    archive = out / f"backupsite-agent-{version}-{options.number}.tar.gz"
    _check_starts(place)
    _pack(work / "tree", archive)
    told = {**_release(archive, number=options.number, version=version), "base": options.base or ""}
    (out / "release.json").write_text(json.dumps(told, indent=2) + "\n")
    if options.sign:
        _sign(out, told, options.sign)
    shutil.rmtree(work)
    if options.deb:
        _run(sys.executable, str(ROOT / "tools" / "agent" / "package.py"), "--out", str(out))
    size = archive.stat().st_size >> 20
    sys.stdout.write(f"{archive}: {size} MiB, needs {told['c_library']} or newer, else Python {' or '.join(PYTHONS)}\n")
    return 0


def _version(root: Path) -> str:
    return re.search(r'VERSION = "([^"]+)"', (root / "agents/program/agent/version.py").read_text())[1]


def _sources(folder: Path, version: str) -> Path:
    """What the program needs, and nothing of Django."""
    for name in SOURCES:
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in FILES:
        shutil.copy(ROOT / name, folder / name)
    needs = ", ".join(f'"{name}"' for name in NEEDS if name not in {"cffi", "pycparser", "typing-extensions"})
    told = folder / "agents/program/agent/version.py"
    told.write_text(told.read_text().replace(f'"{_version(ROOT)}"', f'"{version}"'))
    (folder / "pyproject.toml").write_text(PROJECT.format(version=version, needs=needs, pythons=_pythons()))
    return folder


def _pythons() -> str:
    """Newer ones are refused by name: the wheels of what it needs would not be found."""
    return f">={PYTHONS[0]},<3.{int(PYTHONS[-1].split('.')[1]) + 1}"


def _wheels(work: Path, sources: Path) -> None:
    wheels = work / "tree" / "wheels"
    pins = work / "pins.txt"
    pins.write_text("".join(_pin(name) for name in NEEDS))
    for python in PYTHONS:
        _run(sys.executable, "-m", "pip", "download", "-q", "--require-hashes", "--no-deps", "--only-binary", ":all:",
             "--implementation", "cp", "--python-version", python, *[f"--platform={name}" for name in PLATFORMS],
             "-r", str(pins), "-d", str(wheels))  # fmt: skip
    _run(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(wheels), str(sources))


def _pin(name: str) -> str:
    """The lines of requirements.lock: version and hashes."""
    found = re.search(rf"^{name}==(?:.*\\\n)*.*\n", (ROOT / "requirements.lock").read_text(), re.MULTILINE)
    if found is None:
        raise SystemExit(f"{name} is not in requirements.lock")
    return found[0]


class Here:
    """This machine: what is frozen here wants its C library or a newer one."""

    def __init__(self, work: Path) -> None:
        self.work = self.seen = work
        self.python = sys.executable
        self.wanted: Sequence[str] = ()

    def run(self, *words: str) -> str:
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        done = subprocess.run(self.command(words), text=True, check=False, **streams)  # noqa: S603  # own words
        if done.returncode != 0:
            raise SystemExit(f"{' '.join(words[:4])}... failed:\n{done.stdout}")
        return done.stdout

    def command(self, words: Sequence[str]) -> list[str]:
        return list(words)


class Base(Here):
    """A folder that base.sh made: an older system. `seen` is the work folder as it is called in there."""

    def __init__(self, work: Path, folder: Path) -> None:
        super().__init__(work)
        self._folder = folder
        self.seen = Path("/mnt")
        self.python = BASE_PYTHON
        self.wanted = ("--implementation", "cp", "--python-version", BASE_VERSION, "--only-binary", ":all:",
                       *(f"--platform={name}" for name in PLATFORMS))  # fmt: skip

    def command(self, words: Sequence[str]) -> list[str]:
        environment = ("env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LC_ALL=C.UTF-8")
        return [*environment, "unshare", "--mount", "sh", "-c", INSIDE, "sh", str(self._folder), str(self.work), *words]


def _base(release: str) -> Path:
    done = subprocess.run([ROOT / "tools/agent/base.sh", release], stdout=subprocess.PIPE, text=True, check=True)  # noqa: S603  # own script; the name goes to debootstrap as one word
    return Path(done.stdout.strip())


def _frozen(place: Here) -> None:
    """Packages are unpacked by this machine's pip: a base needs neither pip nor a network."""
    work = place.work
    install = (sys.executable, "-m", "pip", "install", "-qq", "--target", str(work / "packages"), *place.wanted)
    _run(*install, "--no-index", "--find-links", str(work / "tree" / "wheels"), "backupsite-agent")
    _run(*install, PYINSTALLER)
    entry = "import sys\nfrom agents.program.agent.cli import main\nsys.exit(main())\n"
    (work / "backupsite-agent.py").write_text(entry)
    seen = place.seen
    hidden = [f"--hidden-import={name}" for name in HIDDEN]
    said = place.run("env", f"PYTHONPATH={seen}/packages", place.python, "-m", "PyInstaller", "--noconfirm",
                     "--log-level=WARN", "--onedir", "--collect-data=tzdata", "--collect-submodules=pyfastcdc",
                     *hidden, *[f"--{name}path={seen}/{name}" for name in ("dist", "work", "spec")],
                     f"{seen}/backupsite-agent.py")  # fmt: skip
    sys.stdout.write(said)
    (work / "dist" / "backupsite-agent").rename(work / "tree" / "bin")


def _check_starts(place: Here) -> None:
    """Without a word of complaint: one of a missing module would mean a slow program, or one that fails at night."""
    said = place.run(f"{place.seen}/tree/bin/backupsite-agent", "--version")
    if not said.startswith("backupsite-agent ") or len(said.splitlines()) != 1:
        raise SystemExit(f"the frozen program complains: {said}")


def _pack(tree: Path, archive: Path) -> None:
    def plain(member: tarfile.TarInfo) -> tarfile.TarInfo:
        member.uid = member.gid = 0
        member.uname = member.gname = ""
        member.mtime = 0
        return member

    with tarfile.open(archive, "w:gz", compresslevel=9) as tar:
        for path in sorted(tree.iterdir()):
            tar.add(path, arcname=path.name, filter=plain)


def _release(archive: Path, *, number: int, version: str) -> dict[str, object]:
    with tarfile.open(archive) as tar:
        library = _newest_symbol(tar)
    data = archive.read_bytes()
    return {
        "number": number,
        "version": version,
        "file": archive.name,
        "size_bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
        "least_python": "3.11",
        "c_library": library,
    }


def _newest_symbol(tar: tarfile.TarFile) -> str:
    """The newest version of the C library that a program or library in bin/ asks for."""
    found = {(2, 0)}
    for member in tar:
        file = tar.extractfile(member) if member.isfile() and member.name.startswith("bin/") else None
        if file is not None:
            found |= {(int(major), int(minor)) for major, minor in re.findall(rb"GLIBC_(\d+)\.(\d+)", file.read())}
    return "glibc {}.{}".format(*max(found))


def _sign(out: Path, told: dict[str, object], key: Path) -> None:
    sys.path.insert(0, str(ROOT))
    import msgspec
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from agents.agent_messages import ReleaseManifest
    from agents.answer_signing import sign_release

    manifest = msgspec.json.encode(msgspec.convert(told, ReleaseManifest))
    (out / "manifest.json").write_bytes(manifest)
    signature = sign_release(private_key=key.read_bytes(), manifest=manifest)
    (out / "manifest.sig").write_bytes(base64.b64encode(signature) + b"\n")
    public = Ed25519PrivateKey.from_private_bytes(key.read_bytes()).public_key().public_bytes_raw()
    sys.stdout.write(f"signed; BACKUPSITE_RELEASE_PUBLIC_KEY={base64.b64encode(public).decode()}\n")


def _run(*words: str) -> None:
    subprocess.run(words, check=True, cwd=ROOT)  # noqa: S603  # own lists of words


if __name__ == "__main__":
    sys.exit(main())
