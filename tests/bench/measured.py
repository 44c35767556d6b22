"""Runs one program and says what it took: wall time, CPU time of it and its children, and peak memory.

As a script it is the small process in between: a child's peak memory starts with that of the process that started it,
which must therefore be tiny. It imports nothing of the project.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple


class Usage(NamedTuple):
    wall_seconds: float
    cpu_seconds: float
    peak_bytes: int


def run_measured(
    command: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    given: str = "",
    until_durable: Path | None = None,
) -> Usage:
    """`until_durable`: the time ends when the file system of this folder has everything on disk.

    Raises RuntimeError with the program's last words when it fails.
    """
    with tempfile.NamedTemporaryFile("r") as told:
        durable = str(until_durable) if until_durable is not None else ""
        between = [sys.executable, "-S", "-E", __file__, told.name, durable, *command]
        done = subprocess.run(
            between,
            env={**os.environ, **(env or {})},
            cwd=cwd,
            input=given,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise RuntimeError(
                f"{command[0]} failed ({done.returncode}): {(done.stderr or done.stdout).strip()[-800:]}"
            )
        return Usage(*json.load(told))


def cpu_seconds_of(pid: int) -> float:
    """CPU time of a running process until now."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _main(told: str, durable: str, command: list[str]) -> int:
    begun = time.monotonic()
    code = subprocess.call(command)
    if durable:
        subprocess.check_call(["sync", "-f", durable])
    wall_seconds = time.monotonic() - begun
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    with open(told, "w") as file:
        json.dump([wall_seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024], file)
    return code


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1], sys.argv[2], sys.argv[3:]))
