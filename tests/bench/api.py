"""`python -m tests.bench.api`: what every page and every GET costs each role, in a fleet of a thousand tenants.

Starts a PostgreSQL of its own, seeds it, serves it with gunicorn as the stack does, and asks for each page over HTTP,
and once more in this process (without network and server). Prints a table with the verdict and the slowest statements,
writes var/bench/api.json. With `--database URL` a seeded database is measured as it is, and nothing is started or
seeded. With `--by-cpu` nothing is served: on a machine that others use as well only processor time says something.
"""

from __future__ import annotations

import argparse
import base64
import http.client
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from backupsite.stack.ports import free_ports
from tests.postgres.cluster import PROGRAMS, scratch_cluster

if TYPE_CHECKING:
    from tests.bench.api_figures import Figure

OVER_HTTP = 8
SHOWN_STATEMENTS, LONGEST_STATEMENT = 15, 400
REPORT = Path(__file__).resolve().parents[2] / "var" / "bench" / "api.json"
ROOT = Path(__file__).resolve().parents[2]
WEB_THREADS = 4
# Nothing is served there; the settings want one.
UNUSED_PORT = 8000
# As an operator sets a machine of this size up.
CLUSTER = {"shared_buffers": "1GB", "effective_cache_size": "4GB", "work_mem": "16MB", "max_wal_size": "8GB"}
CLUSTER |= {"random_page_cost": "1.1"}


def main() -> int:
    options = _options()
    if not PROGRAMS and not options.database:
        print("not measured: no PostgreSQL server: apt-get install postgresql", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory(prefix="backupsite-bench-") as data, _database(options) as url:
        environment = _environment(url, data)
        os.environ.update(environment)
        if not options.database:
            _seed(options)
        with nullcontext(UNUSED_PORT) if options.by_cpu else _served(data) as port:
            figures = list(_told(_measure(port, options)))
    _print_verdict(figures)
    REPORT.parent.mkdir(parents=True, exist_ok=True)
    told = {"by_cpu": options.by_cpu, "load": os.getloadavg(), "figures": [asdict(figure) for figure in figures]}
    REPORT.write_text(json.dumps(told, indent=1) + "\n")
    return 0 if all(figure.is_kept for figure in figures) else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    for name, default in (("tenants", 1_000), ("servers", 100_000), ("backups", 1_000_000)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--requests", type=int, default=OVER_HTTP, help="of each page, one after another")
    parser.add_argument("--only", default="", help="pages whose name holds this, such as `portal` or `api jobs`")
    parser.add_argument("--role", default="", help="roles whose name holds this, such as `DCAdmin`")
    parser.add_argument("--by-cpu", action="store_true", help="in this process alone, judged by processor time")
    parser.add_argument("--database", default="", help="URL of a database that seed_fleet filled")
    return parser.parse_args()


@contextmanager
def _database(options: argparse.Namespace) -> Iterator[str]:
    if options.database:
        yield options.database
        return
    with scratch_cluster(CLUSTER) as url:
        yield url


def _environment(url: str, data: str) -> dict[str, str]:
    key = base64.b64encode(b"bench" * 8).decode()[:43] + "="
    return {
        "DJANGO_SETTINGS_MODULE": "backupsite.settings",
        "BACKUPSITE_DATA": data,
        "BACKUPSITE_DATABASE_URL": url,
        "BACKUPSITE_SECRET_KEY": "bench",
        "BACKUPSITE_MFA_KEY": key,
        "BACKUPSITE_PORTAL_SIGNER_KEY": "bench",
        "BACKUPSITE_TOKEN_PEPPERS": f"1:{key}",
        "BACKUPSITE_ADMIN_MFA": "advised",
        "BACKUPSITE_LOG_LEVEL": "ERROR",
        "NO_PROXY": "127.0.0.1",
    }


def _seed(options: argparse.Namespace) -> None:
    for command in (
        ("migrate", "--verbosity", "0"),
        ("seed_fleet", *(f"--{name}={getattr(options, name)}" for name in ("tenants", "servers", "backups"))),
    ):
        subprocess.run([sys.executable, "manage.py", *command], cwd=ROOT, check=True)


@contextmanager
def _served(data: str) -> Iterator[int]:
    """gunicorn with the arguments of the stack's web process."""
    port = free_ports(1)[0]
    arguments = ["--bind", f"127.0.0.1:{port}", "--worker-class", "gthread", "--workers", "1"]
    arguments += ["--threads", str(WEB_THREADS), "--no-control-socket", "--log-level", "warning"]
    environment = {**os.environ, "BACKUPSITE_ROLE": "web", "BACKUPSITE_PORT": str(port)}
    with Path(data, "gunicorn.log").open("wb") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "gunicorn", "tests.bench.unthrottled:application", *arguments],
            cwd=ROOT,
            env=environment,
            stdout=log,
            stderr=log,
        )
        try:
            _wait_for(port, server)
            yield port
        finally:
            server.terminate()
            server.wait(timeout=30)


def _wait_for(port: int, server: subprocess.Popen[bytes]) -> None:
    for _ in range(600):
        if server.poll() is not None:
            raise RuntimeError("gunicorn ended")
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            connection.request("GET", "/livez")
            if connection.getresponse().status == 200:
                return
        except OSError:
            pass
        time.sleep(0.1)
    raise RuntimeError("gunicorn does not answer")


def _measure(port: int, options: argparse.Namespace) -> Iterator[Figure]:
    # The cookie's name has the port in it.
    os.environ["BACKUPSITE_PORT"] = str(port)
    import django

    django.setup()
    from tests.bench.api_figures import measured

    return measured(
        port=None if options.by_cpu else port, count=options.requests, wanted=options.only, roles=options.role
    )


def _told(figures: Iterator[Figure]) -> Iterator[Figure]:
    """The same, each printed when it is there."""
    head = (
        f"{'page':46}{'role':24}{'HTTP p50':>9}{'p95':>7}{'in process p50':>16}{'p95':>7}{'CPU':>7}{'statements':>12}"
    )
    print(head + f"{'slowest':>9}")
    for figure in figures:
        verdict = ("" if figure.is_kept else "  MISSED") + (f"  {figure.status}" if figure.status >= 400 else "")
        print(
            f"{figure.page:46}{figure.role:24}{figure.http_p50:9.0f}{figure.http_p95:7.0f}{figure.process_p50:16.0f}"
            f"{figure.process_p95:7.0f}{figure.cpu:7.0f}{figure.statements:12}{figure.slowest_ms:9.0f}{verdict}",
            flush=True,
        )
        yield figure


def _print_verdict(figures: list[Figure]) -> None:
    print()
    for figure in sorted(figures, key=lambda figure: -figure.slowest_ms)[:SHOWN_STATEMENTS]:
        print(f"{figure.slowest_ms:7.0f} ms  {figure.page}, {figure.role}: {figure.slowest[:LONGEST_STATEMENT]}")
    for kind in sorted({figure.kind for figure in figures}):
        of_kind = [figure for figure in figures if figure.kind == kind]
        missed = [figure for figure in of_kind if not figure.is_kept]
        slowest = max(of_kind, key=lambda figure: figure.judged_ms)
        most = max(of_kind, key=lambda figure: figure.statements)
        print(
            f"{len(of_kind)} of kind {kind}, aim {slowest.aim_ms:.0f} ms: "
            f"slowest {slowest.judged_ms:.0f} ms ({slowest.page}, {slowest.role}), "
            f"most statements {most.statements} ({most.page}, {most.role}); "
            f"{f'MISSED by {len(missed)}' if missed else 'kept'}"
        )


if __name__ == "__main__":
    sys.exit(main())
