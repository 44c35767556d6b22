"""Which program this is."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

VERSION = "0.1.0"
_RELEASE = re.compile(r"/releases/([0-9]{1,9})/")


def release_number(program: str | None = None) -> int:
    """Of the release that this program was installed as; 0 for one that was installed by other means."""
    path = program or os.path.realpath(sys.executable if getattr(sys, "frozen", False) else sys.prefix + "/bin")
    found = _RELEASE.search(str(Path(path)) + "/")
    return int(found[1]) if found else 0
