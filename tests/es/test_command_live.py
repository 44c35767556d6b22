"""The command against the service itself: the tables as they are printed, a sign-in, a backup that is waited for."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.utils import timezone

from agents.models import Server
from backups.models import Backup, Job
from backupsite.es_api import streams
from backupsite.es_command.main import main
from definitions.models import Definition
from tenants.models import ApiToken, Person, Tenant
from tests.factories import make_backup, make_definition, make_person, make_server, make_tenant, make_token

pytestmark = pytest.mark.django_db(transaction=True)
PASSWORD = "a-long-password-1"
DEFINITIONS = """\
hostname    vm_uuid                               dc                  name    disk_id    type    node    zpool    \
desc     bwlimit    active    schedule    retention    compression    fsfreeze    time_zone
----------  ------------------------------------  ------------------  ------  ---------  ------  ------  -------  \
-------  ---------  --------  ----------  -----------  -------------  ----------  -----------
web01       ................................1234  backup-tenant-....  daily   1          3       n99              \
nightly             True      0 4 * * *   30           0              False       UTC"""
NODES = """\
hostname    uuid                                  address    status    node_status    owner    is_head    is_compute\
    is_backup    cpu    ram    cpu_free    ram_free    region
----------  ------------------------------------  ---------  --------  -------------  -------  ---------  ------------\
  -----------  -----  -----  ----------  ----------  --------
n99         ................................1234             2         online                  False\
      True          True                                               RBX"""


@pytest.fixture
def admin(live_server: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, settings: Any) -> Person:
    """The administrator of a tenant that is called admin, with a server; and of another tenant there is one, too."""
    # With a second factor there is no sign-in by password, only keys.
    settings.CONFIG = settings.CONFIG.model_copy(update={"admin_mfa": "advised"})
    tenant = make_tenant("admin")
    server = make_server(tenant, name="web01")
    server.node.name = "n99"
    server.node.save()
    make_definition(server, name="daily", cron="0 4 * * *", retention_count=30, description="nightly")
    other = make_server(make_tenant("other"), name="db01")
    make_definition(other, name="hidden")
    monkeypatch.setenv("ES_API_URL", f"{live_server.url}/api")
    monkeypatch.delenv("ES_API_KEY", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("XDG_CONFIG_HOME", "XDG_STATE_HOME"):
        monkeypatch.setenv(name, str(tmp_path))
    return make_person("anna", administers=[tenant], password=PASSWORD)


def same_width(text: str) -> str:
    """Without what differs from run to run."""
    suffix = Tenant.objects.get(title="admin").suffix
    text = re.sub(r"[0-9a-f]{8}-[0-9a-f-]{27}", f"{'.' * 32}1234", text)
    return text.replace(suffix, "." * len(suffix))


def held_open(person: Person, finish: Callable[[float], None], monkeypatch: pytest.MonkeyPatch) -> bytes:
    """The body that the command of that other system gets, which waits for a stream."""
    monkeypatch.setattr(streams, "pause", finish)
    address = f"{os.environ['ES_API_URL']}/vm/web01/backup/daily/"
    headers = {"ES-STREAM": "es", "ES-API-KEY": make_token(person), "Content-Type": "application/json; indent=4"}
    request = urllib.request.Request(address, data=b"{}", headers=headers)
    with urllib.request.urlopen(request, timeout=30) as answer:
        assert (answer.status, answer.headers["es_stream"]) == (201, "es")
        body: bytes = answer.read()
    assert body.startswith(b"  ")
    return body


def test_the_two_tables_and_a_backup_from_sign_in_to_sign_out(
    admin: Person, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def es(*words: str, pause: Callable[[float], None] = lambda seconds: None) -> tuple[int, str]:
        code = main(words, pause=pause)
        return code, capsys.readouterr().out.rstrip("\n")

    def finish(seconds: float) -> None:
        Job.objects.filter(state="pending").update(state="ok", finished_at=timezone.now())

    assert es("get", "/vm")[0] == 1
    assert es("login", "-username", "anna", "-password", "wrong")[0] == 4
    assert es("login", "-username", "anna", "-password", PASSWORD)[0] == 0
    code, table = es("get", "/vm/define/backup", "-dc", "admin", "-full", "--tabulate")
    assert (code, same_width(table).splitlines()) == (0, [line.rstrip() for line in DEFINITIONS.splitlines()])
    code, table = es("get", "/node/", "-full", "--tabulate")
    assert (code, same_width(table).splitlines()) == (0, [line.rstrip() for line in NODES.splitlines()])
    assert es("get", "/vm", "--csv") == (0, "web01")
    assert es("get", "/vm/db01/define/backup")[0] == 1
    assert es("get", "/dc", "-full", "--csv")[1].startswith("name;alias;")

    code, text = es("create", "/vm/web01/backup/daily", "-disk_id", "1", "-note", "by es", pause=finish)
    assert (code, json.loads(text)["status"], json.loads(text)["text"]["status"]) == (0, 200, "SUCCESS")
    name = json.loads(text)["text"]["result"]["bkpname"]
    assert held_open(admin, finish, monkeypatch).strip().startswith(b"200\n{")
    assert es("get", f"/vm/web01/backup/{name}", "--tabulate-plain")[1].count("by es") == 1
    changed = ("-schedule", "5 4 * * *", "-active", "false", "-retention", "7")
    assert es("set", "/vm/web01/define/backup/daily", *changed)[0] == 0
    definition = Definition.objects.get(name="daily")
    assert (definition.cron, definition.active, definition.retention_count) == ("5 4 * * *", False, 7)
    assert "-target_hostname_or_uuid" in es("help", "/vm/web01/backup/x")[1]
    assert es("logout")[0] == 0
    assert not ApiToken.objects.filter(kind=ApiToken.Kind.LOGIN).exists()
    assert es("get", "/vm")[0] == 1


def scripts_of_the_manual() -> dict[str, str]:
    manual = (Path(__file__).resolve().parents[2] / "docs" / "es.md").read_text()
    found = re.findall(r"^```bash\n(# ([\w-]+)[^\n]*\n.*?)^```", manual, re.MULTILINE | re.DOTALL)
    return {name: text for text, name in found}


def test_the_scripts_of_the_manual_do_what_they_say(admin: Person, tmp_path: Path) -> None:
    """Under bash, with the command and curl against a server; what is asked for is done as soon as it is there."""
    scripts = scripts_of_the_manual()
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "es").write_text(f'#!/bin/sh\nexec {sys.executable} -m backupsite.es_command "$@"\n')
    (tmp_path / "bin" / "es").chmod(0o755)
    root = str(Path(__file__).resolve().parents[2])
    environment = {**os.environ, "PATH": f"{tmp_path}/bin:{os.environ['PATH']}", "PYTHONPATH": root}
    environment["ES_API_KEY"] = make_token(admin)

    def run(name: str, *words: str, state: str = "ok") -> tuple[int, list[str]]:
        text = f"set -euo pipefail\n{scripts.pop(name) if state == 'ok' else scripts[name]}"
        command = ["bash", "-c", text, name, *words]
        with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            while process.poll() is None:
                Job.objects.filter(state="pending").update(state=state, message="as asked", finished_at=timezone.now())
                with suppress(subprocess.TimeoutExpired):
                    process.wait(timeout=0.2)
            assert process.stdout is not None and process.stderr is not None
            return process.returncode, (process.stdout.read() + process.stderr.read()).decode().splitlines()

    server = Server.objects.get(name="web01")
    good = make_backup(server)
    Backup.objects.filter(pk=good.pk).update(created_at=timezone.now() - timedelta(days=9))
    target = make_server(server.tenant, name="web02")

    code, lines = run("nightly", "web01", "daily", state="failed")
    assert (code, "message: as asked" in lines[-1]) == (1, True)
    code, lines = run("nightly", "web01", "daily")
    assert (code, lines) == (0, [Backup.objects.order_by("-pk")[0].name])
    assert run("nightly-curl", "web01", "daily") == (0, [])
    assert run("older", "web01", "8") == (0, [good.name])
    assert run("restore", "web01", "web02")[0] == 0
    restored = Job.objects.get(kind="restore")
    assert (restored.backup_name, restored.disk.server, restored.requested_by) == (good.name, target, admin)
    assert run("define") == (0, [])
    assert sorted(Definition.objects.filter(name="daily").values_list("disk__server__name", "retention_count")) == [
        ("web01", 30),
        ("web02", 30),
    ]
    code, lines = run("storage", server.node.name)
    assert (code, lines) == (0, [f"zpool;{server.node.storages.get().name}", "size_free;", "backups;0"])
    assert scripts == {}


def test_as_a_process_with_a_key_of_the_environment(admin: Person, tmp_path: Path) -> None:
    key = make_token(admin, scope="read")
    environment = {**os.environ, "ES_API_KEY": key}

    def es(*words: str) -> Any:
        command = [sys.executable, "-m", "backupsite.es_command", *words]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)

    got = es("get", "/vm/define/backup", "-dc", "admin", "-full", "--csv")
    assert (got.returncode, got.stderr) == (0, "")
    # Who reads has enough: no trace, no noise.
    with subprocess.Popen(
        [sys.executable, "-m", "backupsite.es_command", "get", "/vm"],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as piped:
        assert piped.stdout is not None and piped.stderr is not None
        piped.stdout.close()
        assert (piped.wait(timeout=60), piped.stderr.read()) == (9, b"")
    assert got.stdout.splitlines()[1].startswith("web01;")
    refused = es("delete", "/vm/web01/define/backup/daily")
    assert (refused.returncode, json.loads(refused.stdout)["text"]["code"]) == (1, "token_scope")
    assert key not in got.stdout + refused.stdout + refused.stderr
    assert Definition.objects.filter(name="daily").exists()
