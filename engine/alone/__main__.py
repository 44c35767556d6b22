"""`python -m engine.alone`: the same as `backupsite-restore`."""

from __future__ import annotations

import sys

from engine.alone.cli import main

if __name__ == "__main__":
    sys.exit(main())
