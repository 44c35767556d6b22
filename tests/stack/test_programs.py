from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from django.core import signing

from backupsite.stack.programs import PROJECT_ROOT, Programs
from backupsite.stack.secret_files import StackSecrets, load_or_make
from backupsite.stack.settings import StackSettings

ROLES = {name: name for name in ("web", "signer", "control", "checks", "node", "beat", "reaper", "notices")} | {
    "setup": "control",
    "asked": "checks",
    "restores": "node",
}


@pytest.fixture
def secrets(tmp_path: Path) -> StackSecrets:
    return load_or_make(tmp_path / "secrets")


def make(tmp_path: Path, secrets: StackSecrets, outside: dict[str, str] | None = None) -> Programs:
    settings = StackSettings(data=tmp_path, port=9000)
    return Programs(settings=settings, secrets=secrets, broker_url="redis+socket:///run/b.sock", outside=outside or {})


_PORTAL = ["BACKUPSITE_SECRET_KEY", "BACKUPSITE_MFA_KEY", "BACKUPSITE_PORTAL_SIGNER_KEY"]
_PORTAL += ["BACKUPSITE_CONTROL_PUBLIC_KEY"]


@pytest.mark.parametrize(("role", "told"), [("web", _PORTAL), ("node", []), ("beat", [])])
def test_a_role_without_need_is_told_no_key(tmp_path: Path, secrets: StackSecrets, role: str, told: list[str]) -> None:
    environment = make(tmp_path, secrets).environment(role)

    assert [name for name in environment if "KEY" in name] == told
    hidden = [secrets.master_key, *(credential.secret_key for credential in secrets.s3.values())]
    assert not set(hidden) & set(environment.values())


@pytest.mark.parametrize(
    ("role", "told"), [("signer", {"SIGNER"}), ("control", {"KEEPER", "PROVISIONER", "COPIER"}), ("checks", {"KEEPER"})]
)
def test_a_role_is_told_its_own_keys_only(tmp_path: Path, secrets: StackSecrets, role: str, told: set[str]) -> None:
    environment = make(tmp_path, secrets).environment(role)

    names = {name for name in environment if name.startswith("BACKUPSITE_S3_") and name.endswith("KEY")}
    assert names == {f"BACKUPSITE_S3_{who}_{part}_KEY" for who in told for part in ("ACCESS", "SECRET")}
    assert environment["BACKUPSITE_MASTER_KEY"] == secrets.master_key


def test_only_the_portal_makes_sessions(tmp_path: Path, secrets: StackSecrets) -> None:
    programs = make(tmp_path, secrets, {"BACKUPSITE_SECRET_KEY": "x", "BACKUPSITE_OIDC_PROVIDERS": "[geheim]"})

    told = {spec.name: spec.env for spec in (programs.setup(), *programs.long_running())}

    for hidden in (secrets.django_secret_key, secrets.mfa_key, secrets.token_peppers, "[geheim]"):
        assert [name for name, env in told.items() if hidden in env.values()] == ["web"]
    assert {name for name, env in told.items() if secrets.portal_signer_key in env.values()} == {"web", "signer"}
    # What agents are told is signed with it.
    assert {name for name, env in told.items() if secrets.control_key in env.values()} == {"signer"}
    assert told["web"]["BACKUPSITE_ADMIN_MFA"] == "advised"


_SIGN = """
import django; django.setup()
from django.core import signing
print(signing.dumps({"_auth_user_id": "1"}, salt="django.contrib.sessions.SessionStore"))
"""


@pytest.mark.parametrize(("role", "is_valid"), [("node", False), ("control", False), ("web", True)])
def test_what_another_process_signs_is_no_session_of_the_portal(
    tmp_path: Path, secrets: StackSecrets, role: str, is_valid: bool
) -> None:
    environment = make(tmp_path, secrets, {"PATH": "/usr/bin:/bin"}).environment(role)
    environment |= {"BACKUPSITE_BROKER_URL": "memory://", "DJANGO_SETTINGS_MODULE": "backupsite.settings"}

    done = subprocess.run(
        [sys.executable, "-c", _SIGN], env=environment, capture_output=True, text=True, cwd=PROJECT_ROOT, check=True
    )

    def opens() -> bool:
        try:
            salt = "django.contrib.sessions.SessionStore"
            signing.loads(done.stdout.strip(), key=secrets.django_secret_key, salt=salt)
        except signing.BadSignature:
            return False
        return True

    assert opens() is is_valid


def test_keys_and_settings_of_the_outside_do_not_leak_in(tmp_path: Path, secrets: StackSecrets) -> None:
    outside = {
        **dict.fromkeys(("AWS_SECRET_ACCESS_KEY", "BACKUPSITE_MASTER_KEY"), "stranger"),
        **dict.fromkeys(("BACKUPSITE_S3_KEEPER_SECRET_KEY",), "stranger"),
        **dict.fromkeys(("DJANGO_SETTINGS_MODULE", "GUNICORN_CMD_ARGS", "BACKUPSITE_ROLE"), "stranger"),
        "BACKUPSITE_TIME_ZONE": "Europe/Prague",
        "PATH": "/usr/bin",
        "NO_PROXY": "example.org",
    }

    environment = make(tmp_path, secrets, outside).environment("web")

    assert "stranger" not in environment.values()
    assert environment["BACKUPSITE_TIME_ZONE"] == "Europe/Prague"
    assert environment["PATH"] == "/usr/bin"
    assert environment["NO_PROXY"] == "example.org,127.0.0.1,localhost"


def test_every_process_is_told_where_the_others_are(tmp_path: Path, secrets: StackSecrets) -> None:
    programs = make(tmp_path, secrets)

    for spec in (programs.setup(), *programs.long_running()):
        assert spec.env["BACKUPSITE_ROLE"] == ROLES[spec.name]
        assert spec.env["BACKUPSITE_PORTAL_URL"] == "http://127.0.0.1:9000"
        assert spec.env["BACKUPSITE_GATE_URL"] == "http://127.0.0.1:9002"
        assert spec.env["BACKUPSITE_S3_ENDPOINT"] == "http://127.0.0.1:9001"
        assert spec.env["BACKUPSITE_BROKER_URL"] == "redis+socket:///run/b.sock"
        assert spec.env["BACKUPSITE_DATA"] == str(tmp_path)


def test_no_secret_is_on_a_command_line(tmp_path: Path, secrets: StackSecrets) -> None:
    programs = make(tmp_path, secrets)
    hidden = {
        secrets.master_key,
        secrets.django_secret_key,
        secrets.notice_key,
        secrets.token_peppers,
        *(credential.secret_key for credential in secrets.s3.values()),
    }

    for spec in (programs.setup(), *programs.long_running()):
        assert not hidden & set(spec.argv)
        assert not any(secret in repr(spec) for secret in hidden)


def test_servers_bind_the_loopback_address(tmp_path: Path, secrets: StackSecrets) -> None:
    binds = [
        spec.argv[spec.argv.index("--bind") + 1]
        for spec in make(tmp_path, secrets).long_running()
        if "--bind" in spec.argv
    ]

    assert binds == ["127.0.0.1:9000", "127.0.0.1:9002"]


def test_a_worker_always_says_that_it_is_ready(tmp_path: Path, secrets: StackSecrets) -> None:
    for wished, told in (("ERROR", "INFO"), ("DEBUG", "DEBUG")):
        environment = make(tmp_path, secrets, {"BACKUPSITE_LOG_LEVEL": wished}).environment("node")
        assert environment["BACKUPSITE_LOG_LEVEL"] == told


def test_only_the_reaper_may_delete_and_it_holds_nothing_else(tmp_path: Path, secrets: StackSecrets) -> None:
    programs = make(tmp_path, secrets)

    told = {spec.name: spec.env for spec in (programs.setup(), *programs.long_running())}
    assert [name for name, env in told.items() if any("S3_REAPER" in key for key in env)] == ["reaper"]
    hidden = [secrets.master_key, *(pair.secret_key for name, pair in secrets.s3.items() if name != "reaper")]
    assert not set(hidden) & set(told["reaper"].values())
    assert "BACKUPSITE_MASTER_KEY" not in told["reaper"]


def test_only_the_sender_opens_secrets_of_webhooks_and_it_holds_nothing_else(
    tmp_path: Path, secrets: StackSecrets
) -> None:
    programs = make(tmp_path, secrets, {"BACKUPSITE_NOTICE_KEY": "stranger"})

    told = {spec.name: spec.env for spec in (programs.setup(), *programs.long_running())}
    assert [name for name, env in told.items() if "BACKUPSITE_NOTICE_KEY" in env] == ["notices"]
    assert told["notices"]["BACKUPSITE_NOTICE_KEY"] == secrets.notice_key
    hidden = [secrets.master_key, *(pair.secret_key for pair in secrets.s3.values())]
    assert not set(hidden) & set(told["notices"].values())


def test_a_command_that_proves_locks_is_told_the_reapers_key(tmp_path: Path, secrets: StackSecrets) -> None:
    programs = make(tmp_path, secrets)

    assert "BACKUPSITE_S3_REAPER_SECRET_KEY" in programs.environment("control", with_reaper=True)
    assert "BACKUPSITE_S3_REAPER_SECRET_KEY" not in programs.environment("control")
