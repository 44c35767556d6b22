"""A process that thaws a guest when nobody else does: after some seconds, or as soon as its starter is gone.

    python thaw_guard.py SECONDS TRIES COMMAND [ARGUMENT ...]

It says `ready`, then waits for `thawed` on its standard input. Ends with 0 when it had nothing to do, with 3 when it
thawed, with 4 when it could not. Imports nothing of the project, for it must start at once and need nothing.
"""

from __future__ import annotations

import select
import subprocess
import sys
import time

THAWED, FAILED = 3, 4


def main(arguments: list[str]) -> int:
    seconds, tries, command = float(arguments[0]), int(arguments[1]), arguments[2:]
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    heard, _, _ = select.select([sys.stdin], [], [], seconds)
    if heard and sys.stdin.readline() == "thawed\n":
        return 0
    for _ in range(tries):
        try:
            # The command comes from the program that started this one.
            done = subprocess.run(command, capture_output=True, timeout=30, check=False)  # noqa: S603  # no shell
        except (OSError, subprocess.TimeoutExpired):
            done = None
        if done is not None and done.returncode == 0:
            return THAWED
        time.sleep(1)
    return FAILED


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
