"""`python -m backupsite.es_command`, where the command is not installed."""

from __future__ import annotations

import sys

from backupsite.es_command.main import main

sys.exit(main())
