"""Releases of the lab: what `make agent-build` built, one of another version, and one that does not start."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from agents.agent_messages import ReleaseManifest
from agents.answer_signing import sign_release
from backupsite.stack.stack import Stack

BUILT = Path("var/agent")
SECOND = Path("var/lab/systems/second")
SECOND_VERSION = "0.0.2"
_PROGRAM = "bin/backupsite-agent"
_RING = """
from agents.models import Release
from agents.releases import set_ring
from tenants.models import Person
actor = Person.objects.filter(is_superuser=True).first()
for release in Release.objects.all():
    state, percent = ("offered", 100) if release.number == {number} else ("withdrawn", 0)
    set_ring(release=release, state=state, percent=percent, actor=actor)
print(Release.objects.filter(state="offered", number={number}).count(), "offered")
"""


def broken(archive: Path, to: Path, *, says: str = "") -> Path:
    """The same release with a program that does not start; with `says` it still tells its version, and only that."""
    text = (
        f'#!/bin/sh\n[ "$1" = --version ] && echo "backupsite-agent {says}" && exit 0\nexit 1\n'
        if says
        else "no program"
    )
    with tarfile.open(archive) as old, tarfile.open(to, "w:gz", compresslevel=1) as new:
        for member in old:
            data: Any = old.extractfile(member) if member.isfile() else None
            if member.name == _PROGRAM:
                member.size, data = len(text), io.BytesIO(text.encode())
            new.addfile(member, data)
    return to


class Releases:
    """`publish`: what the install line gives; `offer`: an update, signed and for all agents."""

    def __init__(self, data: Path, folder: Path) -> None:
        self.told = json.loads((BUILT / "release.json").read_text())
        self.archive, self.version = BUILT / self.told["file"], self.told["version"]
        self._data, self._folder = data, folder
        self._number: int = self.told["number"]
        self._key = os.urandom(32)
        self.public_key = Ed25519PrivateKey.from_private_bytes(self._key).public_key().public_bytes_raw()

    def use(self, stack: Stack) -> None:
        self._stack = stack

    def publish(self, archive: Path) -> None:
        folder = self._data / "agent"
        folder.mkdir(exist_ok=True)
        shutil.copy(archive, folder / self.told["file"])
        told = {**self.told, "sha256": _digest(archive), "size_bytes": archive.stat().st_size}
        (folder / "release.json").write_text(json.dumps(told))

    def offer(self, archive: Path, version: str) -> int:
        self._number += 1
        file = self._folder / f"backupsite-agent-{version}-{self._number}.tar.gz"
        shutil.copy(archive, file)
        manifest = msgspec.json.encode(
            ReleaseManifest(self._number, version, file.name, file.stat().st_size, _digest(file))
        )
        signed, signature = file.with_suffix(".json"), file.with_suffix(".sig")
        signed.write_bytes(manifest)
        signature.write_bytes(base64.b64encode(sign_release(private_key=self._key, manifest=manifest)))
        words = (str(file), "--manifest", str(signed), "--signature", str(signature))
        self._stack.run_manage("import_release", *words, role="manage")
        # Only a SuperAdmin sees releases, and the demo's token is of nobody who is one.
        said = self._stack.run_manage("shell", "--no-imports", "-c", _RING.format(number=self._number), role="manage")
        assert said.splitlines()[-1] == "1 offered", said
        return self._number


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def second() -> Path:
    """Built once for what was built last, in the same way."""
    told = json.loads((BUILT / "release.json").read_text())
    mark = SECOND / "of"
    if not mark.exists() or mark.read_text() != told["sha256"]:
        base = ("--base", told["base"]) if told.get("base") else ()
        words = (*base, "--version", SECOND_VERSION, "--out", str(SECOND))
        subprocess.run([sys.executable, "tools/agent/build.py", *words], check=True)
        mark.write_text(told["sha256"])
    return SECOND / json.loads((SECOND / "release.json").read_text())["file"]
