"""Every line of docs/api.md that a reader would type, run by a shell with curl against a server that answers."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.factories import make_backup, make_definition, make_person, make_server, make_tenant, make_token

PAGE = Path(__file__).resolve().parents[2] / "docs" / "api.md"
BLOCK = re.compile(r"^```sh\n(.*?)^```", re.MULTILINE | re.DOTALL)
# Each request is written down with its status; an answer that is no success ends the script.
WATCHED = r"""
curl() { command curl --fail-with-body -w '%{stderr}%{http_code} %{method} %{url}\n' "$@"; }
set -euo pipefail
"""
pytestmark = [
    pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed: apt-get install curl"),
]


def script(*, api: str, token: str) -> str:
    lines = "\n".join(BLOCK.findall(PAGE.read_text()))
    filled, count = re.subn(
        r"^(API|TOKEN)=.*$",
        lambda found: f"{found[1]}='{api if found[1] == 'API' else token}'",
        lines,
        flags=re.MULTILINE,
    )
    assert count == 2
    return WATCHED + filled


@pytest.mark.django_db(transaction=True)
def test_every_line_of_the_page_works(live_server: Any, tmp_path: Path) -> None:
    tenant = make_tenant()
    server = make_server(tenant)
    make_backup(server, definition=make_definition(server, active=True))
    token = make_token(make_person(administers=[tenant]), scope="admin", may_restore=True)
    text = script(api=f"{live_server.url}/api/v1", token=token)

    done = subprocess.run(
        ["bash", "-c", text],
        cwd=tmp_path,
        env={**os.environ, "NO_PROXY": "localhost"},
        capture_output=True,
        text=True,
        timeout=240,
    )

    asked = [line for line in done.stderr.splitlines() if re.match(r"\d{3} [A-Z]+ ", line)]
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-1000:]
    assert len(asked) == len(re.findall(r"\bapi (?!\(\))", text)) >= 10
    assert all(line.startswith("2") for line in asked)
    assert (tmp_path / "backups.csv").read_text().startswith("id,")
