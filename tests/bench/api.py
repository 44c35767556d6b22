"""`python -m tests.bench.api`: how long every list and detail takes for each role, in a fleet of a thousand tenants.

Starts a PostgreSQL of its own, seeds it, serves it with gunicorn as the stack does, and asks for each page over HTTP,
and once more in this process (without network and server). Prints a table with the verdict, writes var/bench/api.json.
With `--database URL` a seeded database is measured as it is, and nothing is started or seeded.
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
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backupsite.stack.ports import free_ports
from tests.postgres.cluster import PROGRAMS, scratch_cluster

if TYPE_CHECKING:
    from tests.bench.api_pages import Page

AIM_MS = 200.0
WARM_UP, OVER_HTTP, IN_PROCESS = 1, 20, 5
REPORT = Path(__file__).resolve().parents[2] / "var" / "bench" / "api.json"
ROOT = Path(__file__).resolve().parents[2]
WEB_THREADS = 4
STATUS_THROTTLED = 429
LONG_MS = 3000.0
# As an operator sets a machine of this size up.
CLUSTER = {"shared_buffers": "1GB", "effective_cache_size": "4GB", "work_mem": "16MB", "max_wal_size": "8GB"}
CLUSTER |= {"random_page_cost": "1.1"}


class ThrottledError(Exception):
    """The service asks for patience."""


@dataclass(frozen=True, slots=True)
class Figure:
    """Milliseconds; `statements` are those of one request, sign-in and grants included. `kind`: list, page, detail."""

    role: str
    page: str
    kind: str
    status: int
    http_p50: float
    http_p95: float
    process_p50: float
    process_p95: float
    statements: int

    @property
    def is_kept(self) -> bool:
        return self.kind == "detail" or self.http_p95 <= AIM_MS


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
        with _served(data) as port:
            figures = list(_told(_measure(port, options.requests)))
    _print_verdict(figures)
    REPORT.parent.mkdir(parents=True, exist_ok=True)
    told = {"aim_ms": AIM_MS, "load": os.getloadavg(), "figures": [asdict(figure) for figure in figures]}
    REPORT.write_text(json.dumps(told, indent=1) + "\n")
    return 0 if all(figure.is_kept for figure in figures) else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    for name, default in (("tenants", 1_000), ("servers", 100_000), ("backups", 1_000_000)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--requests", type=int, default=OVER_HTTP, help="of each page, one after another")
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
            [sys.executable, "-m", "gunicorn", "backupsite.wsgi:application", *arguments],
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
            if _asked(http.client.HTTPConnection("127.0.0.1", port, timeout=5), "/livez", {})[0] == 200:
                return
        except OSError:
            pass
        time.sleep(0.1)
    raise RuntimeError("gunicorn does not answer")


def _measure(port: int, count: int) -> Iterator[Figure]:
    # The cookie's name has the port in it.
    os.environ["BACKUPSITE_PORT"] = str(port)
    import django

    django.setup()
    from django.conf import settings
    from django.test import Client

    from tests.bench.api_pages import pages, people

    # Of this process only: what is measured in it is not to be throttled.
    settings.API_RATES, settings.ALLOWED_HOSTS = {}, ["*"]
    for role, person in people().items():
        client = Client()
        client.force_login(person)
        cookie = {"Cookie": f"{settings.SESSION_COOKIE_NAME}={client.cookies[settings.SESSION_COOKIE_NAME].value}"}
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        first: dict[str, dict[str, Any] | None] = {}
        for page in pages():
            address = _address(page, client, first)
            if address is not None:
                yield _figure(role, page, address, connection, cookie, client, count)


def _address(page: Page, client: Any, first: dict[str, dict[str, Any] | None]) -> str | None:
    """Of a detail that of the first row which the person sees; None where he sees none, or there is no next page."""
    if page.kind == "next":
        following = client.get(page.address).json().get("next")
        return following.split("testserver", 1)[1] if following else None
    if not page.of:
        return page.address
    if page.of not in first:
        answer = client.get(f"/api/v1/{page.of}/?limit=1").json()
        first[page.of] = next(iter(answer.get("results", [])), None)
    row = first[page.of]
    return page.address % (row.get("id") or row["code"]) if row else None


def _figure(
    role: str,
    page: Page,
    address: str,
    connection: http.client.HTTPConnection,
    cookie: dict[str, str],
    client: Any,
    count: int,
) -> Figure:
    from django.db import connection as database
    from django.test.utils import CaptureQueriesContext

    status = 0

    def over_http() -> None:
        nonlocal status
        status = _asked(connection, address, cookie)[0]
        if status == STATUS_THROTTLED:
            connection.close()
            raise ThrottledError

    def in_process() -> None:
        client.get(address)

    with CaptureQueriesContext(database) as captured:
        in_process()
    # Now: the next request empties the log.
    statements = len(captured)
    # Idle connections are closed by the server after a moment; the next request opens one.
    connection.close()
    http_p50, http_p95 = _times(over_http, count)
    process_p50, process_p95 = _times(in_process, IN_PROCESS)
    kind = "list" if page.kind == "next" else page.kind
    return Figure(role, page.name, kind, status, http_p50, http_p95, process_p50, process_p95, statements)


def _asked(connection: http.client.HTTPConnection, address: str, headers: dict[str, str]) -> tuple[int, bytes]:
    connection.request("GET", address, headers=headers)
    response = connection.getresponse()
    return response.status, response.read()


def _times(ask: Callable[[], None], count: int) -> tuple[float, float]:
    """Median and 95th percentile in milliseconds, after a warm-up. What takes seconds is asked for once."""
    began = time.perf_counter()
    for _ in range(WARM_UP):
        with suppress(ThrottledError):
            ask()
    warm_up = (time.perf_counter() - began) * 1000
    if warm_up > LONG_MS:
        return warm_up / WARM_UP, warm_up / WARM_UP
    times: list[float] = []
    while len(times) < count:
        began = time.perf_counter()
        try:
            ask()
        except ThrottledError:
            # The service's own limit of requests in a minute; what it refused is not counted.
            time.sleep(2)
            continue
        times.append((time.perf_counter() - began) * 1000)
    times.sort()
    return times[len(times) // 2], times[-(-len(times) * 95 // 100) - 1]


def _told(figures: Iterator[Figure]) -> Iterator[Figure]:
    """The same, each printed when it is there."""
    print(f"{'page':34}{'role':24}{'HTTP p50':>9}{'p95':>8}{'in process p50':>16}{'p95':>8}{'statements':>12}")
    for figure in figures:
        verdict = ("" if figure.is_kept else "  MISSED") + (f"  {figure.status}" if figure.status >= 400 else "")
        print(
            f"{figure.page:34}{figure.role:24}{figure.http_p50:9.0f}{figure.http_p95:8.0f}"
            f"{figure.process_p50:16.0f}{figure.process_p95:8.0f}{figure.statements:12}{verdict}",
            flush=True,
        )
        yield figure


def _print_verdict(figures: list[Figure]) -> None:
    for kind in ("list", "page", "detail"):
        of_kind = [figure for figure in figures if figure.kind == kind]
        missed = [figure for figure in of_kind if not figure.is_kept]
        slowest = max(of_kind, key=lambda figure: figure.http_p95)
        print(
            f"{len(of_kind)} of kind {kind}; slowest p95 {slowest.http_p95:.0f} ms ({slowest.page}, {slowest.role}); "
            f"aim: {'none' if kind == 'detail' else f'{AIM_MS:.0f} ms, '}"
            f"{'' if kind == 'detail' else 'kept' if not missed else f'MISSED by {len(missed)}'}"
        )


if __name__ == "__main__":
    sys.exit(main())
