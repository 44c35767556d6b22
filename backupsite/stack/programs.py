"""The service's own processes: what each is started with, and the only secrets each is told.

The table `_SECRETS_OF_ROLE` is the whole rule: web, node and beat hold no storage key and no master key; the only
process that can delete holds nothing else; the portal alone holds what makes its sessions.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from backupsite.stack.ports import GATE_OFFSET, LOOPBACK, PORTAL_OFFSET
from backupsite.stack.probes import http_ok, log_says
from backupsite.stack.process import ChildSpec
from backupsite.stack.secret_files import StackSecrets, public_half
from backupsite.stack.settings import StackSettings

PROJECT_ROOT = Path(__file__).resolve().parents[2]
MANAGE = PROJECT_ROOT / "manage.py"

# `setup` has checked what Django checks; here that would load the portal's pages into each of them.
_CELERY = ("-m", "celery", "-A", "backupsite", "--skip-checks")
WEB_THREADS = 8
# Ten of them start at once, on a busy machine beside other stacks. One that dies is found at once.
READY_SECONDS = 300.0
MASTER_KEY = "master_key"
REAPER_KEY = "reaper"
NOTICE_KEY = "notice_key"
SECRET_KEY, MFA_KEY, PORTAL_SIGNER_KEY = "secret_key", "mfa_key", "portal_signer_key"
CONTROL_KEY, CONTROL_PUBLIC_KEY = "control_key", "control_public_key"
TOKEN_PEPPERS = "token_peppers"  # noqa: S105  # the name of a setting
_SECRETS_OF_ROLE: Mapping[str, tuple[str, ...]] = {
    # What makes sessions and opens second factors is with the portal alone.
    "web": (SECRET_KEY, MFA_KEY, PORTAL_SIGNER_KEY, TOKEN_PEPPERS, CONTROL_PUBLIC_KEY),
    # What agents are told is signed by it.
    "signer": (MASTER_KEY, PORTAL_SIGNER_KEY, CONTROL_KEY, "signer"),
    "control": (MASTER_KEY, "keeper", "provisioner", "copier"),
    "checks": (MASTER_KEY, "keeper"),
    "node": (),
    "beat": (),
    "reaper": (REAPER_KEY,),
    # Speaks to addresses that tenants give: it opens the secrets of their webhooks, and no backup.
    "notices": (NOTICE_KEY,),
    # One-off commands that make a token.
    "manage": (TOKEN_PEPPERS,),
}
# The person's own setting with secrets in it: handed on to the portal.
OIDC_PROVIDERS = "BACKUPSITE_OIDC_PROVIDERS"
# What must not leak from the launcher's own environment into a process: keys, and settings made for other programs.
_DROPPED_PREFIXES = (
    *("AWS_", "WEED_", "DJANGO_", "CELERY_", "GUNICORN_"),
    *("BACKUPSITE_S3_", "BACKUPSITE_MASTER_KEY", "BACKUPSITE_ROLE", "BACKUPSITE_NODE", "BACKUPSITE_NOTICE_KEY"),
    *("BACKUPSITE_SECRET_KEY", "BACKUPSITE_MFA_KEY", "BACKUPSITE_PORTAL_SIGNER_KEY", OIDC_PROVIDERS),
    *("BACKUPSITE_TOKEN_PEPPERS", "BACKUPSITE_CONTROL_KEY", "BACKUPSITE_CONTROL_PUBLIC_KEY"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Programs:
    """Builds the specifications of the service's processes."""

    settings: StackSettings
    secrets: StackSecrets
    broker_url: str
    outside: Mapping[str, str]

    def setup(self) -> ChildSpec:
        """The one-off command that brings the database up to date and writes the fixed rows; may run again."""
        return self._python("setup", "control", str(MANAGE), "setup", "--embedded")

    def long_running(self) -> tuple[ChildSpec, ...]:
        """In the order they are shown; they do not depend on each other."""
        return (
            self._gunicorn("web", "web", port=self.settings.port + PORTAL_OFFSET),
            self._gunicorn("signer", "signer", port=self.settings.port + GATE_OFFSET),
            self._worker("control", "control", queue="system", name="control@local", concurrency=1),
            # Reading whole vaults takes hours; commits must not wait for it.
            self._worker("checks", "checks", queue="checks", name="checks@local", concurrency=1),
            # Nor does a person who asked for one check wait for those of the night.
            self._worker("asked", "checks", queue="checks.asked", name="asked@local", concurrency=1),
            self._worker("node", "node", queue="node.local", name="node-local@local", concurrency=2),
            # A restore begins at once, whatever backups the former has: a person waits for it.
            self._worker("restores", "node", queue="node.local.restores", name="restores@local", concurrency=1),
            self._beat(),
            self._one_process("reaper", "reaper"),
            self._one_process("notices", "notices"),
        )

    def environment(self, role: str, *, with_reaper: bool = False) -> dict[str, str]:
        """The whole environment of a process of this role; `with_reaper` is for one-off commands that prove locks."""
        settings = self.settings
        kept = {name: value for name, value in self.outside.items() if not name.startswith(_DROPPED_PREFIXES)}
        return (
            kept
            | self._told((*_SECRETS_OF_ROLE[role], *((REAPER_KEY,) if with_reaper else ())))
            | {
                "BACKUPSITE_ROLE": role,
                "BACKUPSITE_DATA": str(settings.data),
                "BACKUPSITE_PORT": str(settings.port),
                "BACKUPSITE_DATABASE_URL": settings.effective_database_url,
                "BACKUPSITE_BROKER_URL": self.broker_url,
                "BACKUPSITE_PORTAL_URL": settings.portal_url,
                "BACKUPSITE_GATE_URL": settings.gate_url,
                "BACKUPSITE_S3_ENDPOINT": settings.s3_url,
                **(
                    {"BACKUPSITE_NODE": "local", "BACKUPSITE_NODE_DATA": str(settings.data / "node")}
                    if role == "node"
                    else {}
                ),
                # The demo is to be looked at; an installation for others sets `required`.
                "BACKUPSITE_ADMIN_MFA": kept.get("BACKUPSITE_ADMIN_MFA") or "advised",
                **({OIDC_PROVIDERS: self.outside.get(OIDC_PROVIDERS, "")} if role == "web" else {}),
                # A worker says that it is ready at this level.
                "BACKUPSITE_LOG_LEVEL": "DEBUG" if kept.get("BACKUPSITE_LOG_LEVEL") == "DEBUG" else "INFO",
                # A task of hours cannot be waited for: SIGTERM is the soft stop of the settings, not "finish first".
                "REMAP_SIGTERM": "SIGQUIT",
                "PYTHONUNBUFFERED": "1",
                **{name: _without_proxy(kept.get(name, "")) for name in ("no_proxy", "NO_PROXY")},
            }
        )

    def _told(self, names: tuple[str, ...]) -> dict[str, str]:
        told: dict[str, str] = {}
        single = {
            MASTER_KEY: self.secrets.master_key,
            NOTICE_KEY: self.secrets.notice_key,
            SECRET_KEY: self.secrets.django_secret_key,
            MFA_KEY: self.secrets.mfa_key,
            PORTAL_SIGNER_KEY: self.secrets.portal_signer_key,
            TOKEN_PEPPERS: self.secrets.token_peppers,
            CONTROL_KEY: self.secrets.control_key,
            CONTROL_PUBLIC_KEY: public_half(self.secrets.control_key),
        }
        for name in names:
            if name in single:
                told[f"BACKUPSITE_{name.upper()}"] = single[name]
                continue
            told[f"BACKUPSITE_S3_{name.upper()}_ACCESS_KEY"] = self.secrets.s3[name].access_key
            told[f"BACKUPSITE_S3_{name.upper()}_SECRET_KEY"] = self.secrets.s3[name].secret_key
        return told

    def _gunicorn(self, name: str, role: str, *, port: int) -> ChildSpec:
        arguments = (
            "--bind",
            f"{LOOPBACK}:{port}",
            "--worker-class",
            "gthread",
            "--workers",
            "1",
            "--threads",
            str(WEB_THREADS),
            # Longer than callers keep an idle connection, so that none is closed under a call.
            "--keep-alive",
            "5",
        )
        quiet = ("--no-control-socket", "--graceful-timeout", "5", "--log-level", "info")
        spec = self._python(name, role, "-m", "gunicorn", "backupsite.wsgi:application", *arguments, *quiet)
        return replace(spec, ready=http_ok(port, "/livez"))

    def _worker(self, child: str, role: str, *, queue: str, name: str, concurrency: int) -> ChildSpec:
        what = ("worker", "-Q", queue, "-n", name, "--concurrency", str(concurrency), "--loglevel", "INFO")
        spec = self._python(child, role, *_CELERY, *what, "--without-mingle", "--without-gossip")
        return replace(spec, ready=log_says(rf"{name} ready\."))

    def _one_process(self, role: str, queue: str) -> ChildSpec:
        # One process, no pool and no heartbeat: it costs the least memory, and nobody waits for its answer.
        what = ("worker", "-Q", queue, "-n", f"{role}@local", "--pool", "solo", "--loglevel", "INFO")
        light = ("--without-mingle", "--without-gossip", "--without-heartbeat")
        spec = self._python(role, role, *_CELERY, *what, *light)
        return replace(spec, ready=log_says(rf"{role}@local ready\."))

    def _beat(self) -> ChildSpec:
        scheduler = ("-S", "django_celery_beat.schedulers:DatabaseScheduler", "--pidfile=", "--loglevel", "INFO")
        spec = self._python("beat", "beat", *_CELERY, "beat", *scheduler)
        # The last line of its banner; what it logs after that depends on the log settings.
        return replace(spec, ready=log_says(r"maxinterval -> "))

    def _python(self, name: str, role: str, *arguments: str) -> ChildSpec:
        return ChildSpec(
            name=name,
            argv=(sys.executable, *arguments),
            env=self.environment(role),
            cwd=PROJECT_ROOT,
            log_directory=self.settings.data / "log",
            ready_seconds=READY_SECONDS,
        )


def _without_proxy(hosts: str) -> str:
    return ",".join(filter(None, (hosts, LOOPBACK, "localhost")))
