"""The forced command lets through what our own drivers call, and nothing beside it."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from agents.drivers.zfs_sets import Base, SendWish, forget_points, send_set
from agents.drivers.zfs_swap import SwapWish, restore_set
from agents.program.zfs_gate import check
from tests.copies.quick_zfs import Machine, QuickHost, machine


def test_a_whole_chain_and_a_restore_pass_the_gate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every call on the source's side is one that the gate lets through."""
    source, target = machine(tmp_path, "a"), machine(tmp_path, "b")
    lines: list[str] = []
    for kind in ("_done", "start"):
        real = getattr(QuickHost, kind)

        def noted(self: QuickHost, *arguments: str, real: Any = real, **options: Any) -> Any:
            if self.name == "a":
                lines.append(shlex.join(["zfs", *arguments]))
            return real(self, *arguments, **options)

        monkeypatch.setattr(QuickHost, kind, noted)
    _use(source, target)

    assert len({line.split()[1] for line in lines}) > 10
    for line in lines:
        assert check(line, "tank", restore=True) == shlex.split(line)


def _use(source: Machine, target: Machine) -> None:
    source.write("tank/web", "content " * 50)
    bases: list[Base] = []
    for number in (1, 2, 3):
        wish = SendWish(
            source="tank/web",
            disk="disk-1",
            snapshot=f"bs-{number}",
            chain=f"tank/copies/web-{number}",
            bases=bases,
            kept=frozenset(base.place.partition("@")[2] for base in bases[:1]),
            known=frozenset(base.place.partition("@")[2] for base in bases),
        )
        done = send_set(source.host, target.host, wish)
        bases.insert(0, Base(done.place, done.guid))
    nothing: frozenset[str] = frozenset()
    restore_set(target.host, bases[0].place, source.host, SwapWish("tank/web", "disk-1", "abc123"))
    forget_points(source.host, "tank/web", disk="disk-1", kept=nothing, known=nothing)


@pytest.mark.parametrize(
    "line",
    [
        "",
        "sh -c id",
        "zfs",
        "zfs destroy tank/vms/web",
        "zfs destroy -r tank/vms/web",
        "zfs destroy -r tank/vms/web@bs-1",
        "zfs destroy tank/vms/web@daily",
        "zfs destroy tank/other@bs-1",
        "zfs send other/vms@bs-1",
        "zfs send tank/vms/../secret@bs-1",
        "zfs send -i tank/other#bs-1 tank/vms/web@bs-2",
        "zfs send tank/vms/web@bs-1 '; id'",
        "zfs send 'tank/vms/web@bs-1\nid'",
        "zfs receive -F tank/vms/web",
        "zfs receive -u tank/vms/web",
        "zfs rename tank/vms/web tank/vms/new",
        "zfs set readonly=off tank/vms/web",
        "zfs hold other tank/vms/web@bs-1",
        "zfs list -H -o name tank/vms",
        "zfs mount -a",
    ],
)
def test_everything_else_is_refused(line: str) -> None:
    with pytest.raises(ValueError):
        check(line, "tank/vms")


def test_a_token_of_another_dataset_is_refused_and_the_program_says_so(tmp_path: Path) -> None:
    program = tmp_path / "zfs"
    program.write_text("#!/bin/sh\necho 'toname = tank/secret@daily'\n")
    program.chmod(0o700)
    with pytest.raises(ValueError, match="token"):
        check(f"{program} send -t 1-abc", "tank/vms", zfs=str(program))
    with pytest.raises(ValueError):
        check("zfs send -F tank/vms/web@bs-1", "tank/vms", restore=True)

    for arguments in ([], ["tank/vms"]):
        ended = subprocess.run(
            [sys.executable, "-m", "agents.program.zfs_gate", *arguments],
            env={"SSH_ORIGINAL_COMMAND": "zfs destroy -r tank", "PATH": "/nowhere"},
            cwd=Path(__file__).parents[2],
            capture_output=True,
            text=True,
        )
        assert ended.returncode == 126 and "permission denied" in ended.stderr
