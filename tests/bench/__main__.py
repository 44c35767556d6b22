"""`make bench` and its parts: python -m tests.bench [stack|peers|block-size|inner-loop|levels|changed-blocks]"""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable

from tests.bench import block_size, changed_blocks, compare, inner_loop, levels, stack_jobs

PARTS: dict[str, Callable[[], int]] = {
    "stack": stack_jobs.main,
    "peers": compare.main,
    "inner-loop": inner_loop.main,
    "block-size": block_size.main,
    "levels": levels.main,
    "changed-blocks": changed_blocks.main,
}


def main(asked: list[str]) -> int:
    """The parts asked for, or the whole stack's, the comparison, and changed blocks beside a full read."""
    names = asked or ["stack", "peers", "changed-blocks"]
    unknown = [name for name in names if name not in PARTS]
    if unknown:
        print(f"unknown: {', '.join(unknown)}; there are: {', '.join(PARTS)}", file=sys.stderr)
        return 2
    # A plain termination would leave gigabytes and a running server behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        return max(PARTS[name]() for name in names)
    except RuntimeError as error:
        print(f"not measured: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
