"""Every call of another program fails once, before and after it did its work: nothing is left, nothing is half done.

Drivers whose own suites do the same: `libvirt` and `qemu` (tests/drivers/test_libvirt_faults.py), `btrfs` (calls of
the kernel). `image` and `filesystem` run no programs.
"""

from __future__ import annotations

import io
import os
import shutil
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from agents.drivers import host_lvm
from agents.drivers.base import DriverError, WriteWish
from agents.drivers.host_mounts import Mount
from agents.drivers.host_snapshots import remove_leftovers, standing_still
from engine.waiting import never_cancel
from tests.drivers.lvm_lab import SIZE
from tests.drivers.lvm_lab import Lab as LvmLab
from tests.drivers.postgresql_lab import Lab as PostgresLab
from tests.drivers.postgresql_lab import running_postgresql

ONE, TWO, SAFE = "backupsite-1a", "backupsite-2b", "backupsite-before-3c"
# Stands in for a program: counts the calls of all, and fails one of them. What only asks is the same before and after.
ASKS = "--version|^lvs |^vgs |^dmsetup status|^thin_"
SHIM = """#!/bin/sh
[ "$1" = --version ] && exec "{tool}" "$@"
[ "$FAULT_WHEN" = after ] && echo "{name} $*" | grep -qE -- "{asks}" && exec "{tool}" "$@"
echo "{name} $*" >> "$FAULT_CALLS"
[ "$(wc -l < "$FAULT_CALLS")" = "$FAULT_AT" ] || exec "{tool}" "$@"
[ "$FAULT_WHEN" = before ] || "{tool}" "$@" > /dev/null 2>&1
echo "error: broken on purpose" >&2
exit 1
"""


@dataclass
class Case:
    """`job` runs the driver; `forget` its sweep; `traces` is what must be as before, whatever failed."""

    programs: dict[str, str]
    job: Callable[[], Any]
    forget: Callable[[], Any]
    traces: Callable[[], Any]


class Faults:
    def __init__(self, folder: Path, case: Case, patched: pytest.MonkeyPatch) -> None:
        self.calls = folder / "calls"
        self._patched = patched
        self.shims = folder / "shims"
        self.shims.mkdir()
        for name, tool in case.programs.items():
            shim = self.shims / name
            shim.write_text(SHIM.format(name=name, tool=tool, asks=ASKS))
            shim.chmod(0o755)

    def run(self, case: Case, when: str, at: int) -> bool:
        """Run the job with the fault; False when it has fewer calls than that."""
        self.calls.write_text("")
        with self._patched.context() as patched:
            for name, value in (("WHEN", when), ("AT", str(at)), ("CALLS", str(self.calls))):
                patched.setenv(f"FAULT_{name}", value)
            patched.setenv("PATH", f"{self.shims}:{os.environ['PATH']}")
            # Programs get no more of the environment than they need.
            real = "agents.drivers.children.environment"
            kept = {name: os.environ[name] for name in ("FAULT_WHEN", "FAULT_AT", "FAULT_CALLS", "PATH", "HOME")}
            for place in (real, "agents.drivers.lvm_commands.environment"):
                patched.setattr(place, lambda *names: {**kept, "LC_ALL": "C"})
            service = {"PGSERVICEFILE": os.environ.get("PGSERVICEFILE", "")}
            patched.setattr("agents.drivers.postgresql_client.environment", lambda *names: {**kept, **service})
            patched.setattr("agents.drivers.postgresql_client._FOLDERS", ())
            with suppress(DriverError):
                case.job()
        return len(self.calls.read_text().splitlines()) >= at


@pytest.fixture(scope="module")
def postgresql() -> Iterator[PostgresLab]:
    with running_postgresql() as lab:
        lab.sql("CREATE DATABASE shop;")
        lab.sql("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1), (2);", "shop")
        yield lab


def _postgresql_case(lab: PostgresLab, kind: str) -> Case:
    with lab.driver.open_streams(lab.reading("database/shop")) as [opened]:
        stream = _files() if kind == "folder" else opened.stream.read()
    path = "folder/copy" if kind == "folder" else "database/shop"
    wishes = {
        "folder": lab.writing(path, create=True),
        "database": lab.writing(path, overwrite=True, safety_point=SAFE),
    }

    def read() -> None:
        with lab.driver.open_streams(lab.reading(path)) as [opened]:
            data = opened.stream.read()
            opened.check_complete()
            # The time of the dump is in its head.
            assert len(data) == len(stream)

    def write() -> None:
        with lab.driver.open_output(wishes[kind]) as opened:
            rest = memoryview(stream)
            while rest:
                rest = rest[opened.output.write(rest) or 0 :]
            opened.finish(never_cancel)
            shutil.rmtree(lab.storage / "copy", ignore_errors=True)

    def traces() -> Any:
        return lab.databases(), lab.sql("SELECT * FROM t;", "shop"), lab.processes(), os.listdir(lab.storage)

    names = {"read": ["psql", "pg_dump"], "database": ["psql", "pg_restore"], "folder": ["tar", "sync"]}[kind]
    programs = {name: _tool(name) for name in names}
    return Case(programs, read if kind == "read" else write, lambda: lab.driver.forget([lab.disk(path)]), traces)


def _files() -> bytes:
    """As `pg_basebackup` gives the files of a server."""
    taken = io.BytesIO()
    with tarfile.open(fileobj=taken, mode="w") as tar:
        for name in ("PG_VERSION", "base"):
            tar.addfile(tarfile.TarInfo(name))
    return taken.getvalue()


def _tool(name: str) -> str:
    found = next((str(path) for path in Path("/usr/lib/postgresql").glob(f"*/bin/{name}")), shutil.which(name))
    assert found is not None
    return found


def _lvm_case(folder: Path, kind: str) -> Case:
    lab = LvmLab(folder)
    path = lab.volume("web", b"content")
    programs = {tool.name: str(tool) for tool in (folder / "bin").iterdir()}
    os.environ["PATH"] = f"{folder / 'bin'}:{os.environ['PATH']}"
    lab.read(lab.wish("web"), point=ONE)
    before = path.read_bytes()

    def read() -> None:
        [(disk, content)] = lab.read(lab.wish("web", ONE, ONE), point=TWO)
        assert content == before
        assert disk.facts.full_reason in {"", "changes_unknown"}

    def write() -> None:
        wish = WriteWish(lab.address("web"), SIZE, safety_point=SAFE)
        with lab.driver.open_target(wish) as opened:
            opened.target.write(0, b"content")

    def traces() -> Any:
        return lab.names(), path.read_bytes(), lab.state["held"]

    if kind == "host":
        return _host_lvm_case(lab, programs, lambda: lab.names())
    forget = [lab.wish("web", None, ONE)]
    return Case(programs, read if kind == "read" else write, lambda: lab.driver.forget(forget), traces)


def _host_lvm_case(lab: LvmLab, programs: dict[str, str], traces: Callable[[], Any]) -> Case:
    """A classic volume of a server with an agent: the driver `host` reads on, whatever becomes of the snapshot."""
    lab.change("web", pool="")
    (lab.folder / "253:1" / "dm").mkdir(parents=True)
    (lab.folder / "253:1" / "dm" / "uuid").write_text("LVM-abc")
    mount = Mount("/srv", "ext4", "/dev/mapper/web", "253:1", "/")

    def read() -> None:
        with _volumes_of(lab), standing_still(mount, "1") as [place]:
            assert (place.held is None) == bool(place.warnings)

    def forget() -> None:
        with _volumes_of(lab):
            remove_leftovers(mount)

    return Case(programs, read, forget, traces)


@contextmanager
def _volumes_of(lab: LvmLab) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(host_lvm, "_SYSFS", lab.folder)
        patched.setattr(host_lvm, "_DEVICES", str(lab.folder / "dev"))
        yield


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(
    "name", ["lvm read", "lvm write", "lvm host", "postgresql read", "postgresql database", "postgresql folder"]
)
def test_a_fault_at_each_call_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest, name: str, when: str
) -> None:
    driver, _, kind = name.partition(" ")
    monkeypatch.setenv("PATH", os.environ["PATH"])
    if driver == "lvm":
        case = _lvm_case(tmp_path, kind)
    else:
        case = _postgresql_case(request.getfixturevalue("postgresql"), kind)
    before, at = case.traces(), 1
    faults = Faults(tmp_path, case, monkeypatch)

    while faults.run(case, when, at):
        failed = faults.calls.read_text().splitlines()[at - 1]
        case.forget()
        assert case.traces() == before, (at, failed)
        at += 1
    case.forget()

    assert at > 1
    assert case.traces() == before
