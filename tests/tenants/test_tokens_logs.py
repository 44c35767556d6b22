"""No token reaches a line of a real process's log, whatever is done with it."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# Runs in a process of its own, with the service's own settings and everything logged.
PROGRAM = """
import json, logging, sys
import django
django.setup()
from django.core.management import call_command
from django.test import Client
from django.utils import timezone
call_command("migrate", verbosity=0)
call_command("createcachetable", verbosity=0)
from tenants.models import ApiToken, Person
from tenants.tokens import NewToken, create_token
person = Person.objects.create(username="anna", is_superuser=True)
_, text = create_token(person=person, wanted=NewToken(label="ci"), now=timezone.now())
wrong = text[:-4] + "AAAA"
client = Client(raise_request_exception=False)
statuses = []
for token in (text, wrong):
    for headers in ({"HTTP_AUTHORIZATION": f"Bearer {token}"}, {"HTTP_AUTHORIZATION": f"Token {token}"},
                    {"HTTP_ES_API_KEY": token}, {"HTTP_AUTHORIZATION": f"Basic {token}"}):
        for path in ("/api/v1/me/", "/api/v1/nothing/", f"/api/v1/backups/?token={token}", f"/api/v1/backups/{token}/",
                     f"/{token}", "/agent/v1/me/"):
            statuses.append(client.get(path, **headers).status_code)
        statuses.append(client.post("/api/accounts/login", json.dumps({"username": token, "password": token}),
                                    content_type="application/json", **headers).status_code)
logger = logging.getLogger("somebody")
logger.warning("sent %s", text)
logger.warning("headers %r", {"ES-API-KEY": text, "Authorization": f"Token {text}"})
logger.warning("a field", extra={"anything": f"x {text} y"})
try:
    raise RuntimeError(f"could not use {text}")
except RuntimeError:
    logger.exception("failed")
print(json.dumps({"text": text, "wrong": wrong, "statuses": sorted(set(statuses)), "kept": ApiToken.objects.count()}))
"""


@pytest.mark.case("AZ-20")
def test_no_line_holds_a_token(tmp_path: Path) -> None:
    (tmp_path / "db").mkdir()
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("BACKUPSITE_")},
        "DJANGO_SETTINGS_MODULE": "backupsite.settings",
        "BACKUPSITE_DATA": str(tmp_path),
        "BACKUPSITE_ALLOWED_HOSTS": "testserver",
        "BACKUPSITE_LOG_LEVEL": "DEBUG",
        "BACKUPSITE_SECRET_KEY": "x" * 50,
        "BACKUPSITE_TOKEN_PEPPERS": "1:" + base64.b64encode(bytes(32)).decode(),
        "BACKUPSITE_DATABASE_URL": f"sqlite:///{tmp_path}/db/test.sqlite3",
    }

    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        capture_output=True,
        text=True,
        env=environment,
        cwd=ROOT,
        check=False,
        timeout=120,
    )

    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads(done.stdout.splitlines()[-1])
    log = done.stderr
    # The lines are there, with the half that names the token, and without the other.
    assert "sent bks_" in log
    assert log.count("[removed]") > 10
    assert {200, 401, 404} <= set(told["statuses"])
    for text in (told["text"], told["wrong"]):
        assert text.partition(".")[2] not in log
    assert told["text"].partition(".")[2][:20] not in log
    assert not [path for path in tmp_path.rglob("*.log") if told["text"].partition(".")[2] in path.read_text()]
