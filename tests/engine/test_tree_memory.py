"""Memory does not grow with the number of files."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_a_hundred_thousand_tiny_files_take_little_memory(tmp_path: Path) -> None:
    """Full, unchanged, and a restore of two thousand of them; prints rates."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.engine.tree_load", str(tmp_path), "100000", "00042", "00043"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    print(done.stdout)
    peak = re.search(r"peak (\d+) MiB", done.stdout)
    assert peak is not None
    assert int(peak[1]) < 256
