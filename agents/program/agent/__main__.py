"""`python -m agents.program.agent`: the program where it was not installed."""

from __future__ import annotations

import sys

from agents.program.agent.cli import main

sys.exit(main())
