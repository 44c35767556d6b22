"""Settings of the tests: a data folder of their own, no broker, nothing of the caller's environment."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile

_kept = os.environ.get("TEST_DATABASE_URL")
for _name in [name for name in os.environ if name.startswith("BACKUPSITE_")]:
    del os.environ[_name]
_data = tempfile.mkdtemp(prefix="backupsite-test-")
atexit.register(shutil.rmtree, _data, ignore_errors=True)
os.makedirs(os.path.join(_data, "db"))
os.makedirs(os.path.join(_data, "static"))
os.environ["BACKUPSITE_DATA"] = _data
# No signer runs here: nothing may be asked of one that happens to run on this machine.
os.environ["BACKUPSITE_GATE_URL"] = "http://127.0.0.1:1"
# Keys that the portal's process has.
os.environ["BACKUPSITE_MFA_KEY"] = "dGVzdHRlc3R0ZXN0dGVzdHRlc3R0ZXN0dGVzdHRlc3Q="
os.environ["BACKUPSITE_PORTAL_SIGNER_KEY"] = "of-the-tests"
# The signer's, and what the portal knows of it.
os.environ["BACKUPSITE_CONTROL_KEY"] = "Y29udHJvbGNvbnRyb2xjb250cm9sY29udHJvbGNvbnQ="
os.environ["BACKUPSITE_CONTROL_PUBLIC_KEY"] = "SG+3bFMiksXewqIelF8DZN73r4j0xgf+57R3WJGKzoo="
os.environ["BACKUPSITE_TOKEN_PEPPERS"] = "1:dG9rZW50b2tlbnRva2VudG9rZW50b2tlbnRva2VudG8="
if _kept:
    os.environ["BACKUPSITE_DATABASE_URL"] = _kept

from backupsite.settings import *  # noqa: E402, F403  # after the environment was set

# One process, and many tests as the same address: what tests rates sets its own.
API_RATES: dict[str, str] = {}
# Each test client makes the middleware anew: static files are looked up when asked for, not all listed by every client.
WHITENOISE_AUTOREFRESH = True
