"""The process that serves the portal and the gate."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TELLS = """
import gc, json, sys
import backupsite.wsgi
views = "backupsite.urls" in sys.modules
print(json.dumps({"views": views, "kept": gc.get_freeze_count(), "left": len(gc.get_objects())}))
"""


def test_what_is_loaded_for_good_is_not_looked_through_for_garbage() -> None:
    """A full collection goes through all of it, some 200,000 objects, while every request waits."""
    done = subprocess.run(
        [sys.executable, "-c", TELLS],
        cwd=ROOT,
        env={**os.environ, "DJANGO_SETTINGS_MODULE": "tests.settings", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)

    assert told["views"], "the first request would load the views"
    assert told["kept"] > 50_000 > 1_000 > told["left"], told
