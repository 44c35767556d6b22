"""Asks for the pages, over HTTP and in this process, and keeps what each cost. Needs Django to be set up."""

from __future__ import annotations

import http.client
import resource
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from itertools import islice
from pathlib import Path
from typing import Any

from django.conf import settings
from django.db import connection as database
from django.test import Client
from django.utils import timezone

from backups.models import NodeFigures, TenantFigures, VaultFigures
from backups.node_load import count_loads
from tests.bench.api_pages import Page, pages, people

WARM_UP, IN_PROCESS = 1, 3
LONG_MS = 3000.0
STATUS_OK = 200
# Of lists, and of everything else that answers to a person; of the es grammar, which gives all rows at once, of a page.
# The heading of an export comes at once; this is when its first rows are there.
AIM_MS = {"list": 200.0, "export": 1000.0}
USUAL_AIM_MS = 300.0
MOST_STATEMENTS = 30


@dataclass(frozen=True, slots=True)
class Figure:
    """Milliseconds. `statements` are those of one request, sign-in and grants included. `kind` as in `Page`.

    `cpu` is the processor's time of one request, of Django and of its database process: what it costs on a machine
    that others use as well. `slowest` is the statement that took longest, `slowest_ms` how long.
    """

    role: str
    page: str
    kind: str
    status: int
    http_p50: float
    http_p95: float
    process_p50: float
    process_p95: float
    cpu: float
    statements: int
    slowest_ms: float
    slowest: str

    @property
    def aim_ms(self) -> float:
        return AIM_MS.get(self.kind, USUAL_AIM_MS)

    @property
    def judged_ms(self) -> float:
        """The wall clock's over HTTP; of a run without HTTP the processor's time."""
        return self.http_p95 or self.cpu

    @property
    def is_kept(self) -> bool:
        return self.judged_ms <= self.aim_ms and self.statements <= MOST_STATEMENTS


def measured(*, port: int | None, count: int, wanted: str, roles: str) -> Iterator[Figure]:
    """Each page whose name holds `wanted`, for each role whose name holds `roles`.

    Asked `count` times over HTTP, and a few times here; without a port only here.
    """
    # Of this process only: what is measured in it is not to be throttled.
    settings.API_RATES, settings.ALLOWED_HOSTS = {}, ["*"]
    # One connection: the time of its process is counted.
    database.settings_dict["CONN_MAX_AGE"] = None
    # As a beat does every half hour; older figures are not shown.
    now = timezone.now()
    if not NodeFigures.objects.filter(counted_at__gt=now - timedelta(minutes=20)).exists():
        count_loads(now=now)
    for role, person in people().items():
        if roles not in role:
            continue
        client = Client()
        client.force_login(person)
        asking = _Asking(client, port, count)
        for page in pages():
            address = asking.address_of(page) if wanted in page.name else None
            if address is not None:
                yield asking.figure(role, page, address)


# By how much they hold; whoever does not see them gets his first one.
LARGEST = {
    "tenants": lambda: TenantFigures.objects.order_by("-good_count").values_list("pk", flat=True)[0],
    "vaults": lambda: VaultFigures.objects.order_by("-backup_count").values_list("pk", flat=True)[0],
}


class _Asking:
    """One person's requests."""

    def __init__(self, client: Client, port: int | None, count: int) -> None:
        self._client, self._here, self._over_port = client, min(count, IN_PROCESS), 0 if port is None else count
        name = settings.SESSION_COOKIE_NAME
        self._cookie = {"Cookie": f"{name}={client.cookies[name].value}"}
        self._connection = http.client.HTTPConnection("127.0.0.1", port or 0, timeout=120)
        self._first: dict[str, dict[str, Any] | None] = {}

    def address_of(self, page: Page) -> str | None:
        """Of a detail that of the first row that the person sees; None where he sees none, or there is no next page."""
        if page.kind == "next":
            following = self._client.get(page.address).json().get("next")
            return following.split("testserver", 1)[1] if following else None
        if not page.of:
            return page.address
        if page.of not in self._first:
            self._first[page.of] = self._first_row(page.of)
        row = self._first[page.of]
        return page.filled(row) if row else None

    def _first_row(self, of: str) -> dict[str, Any] | None:
        """Of tenants and vaults the row of the largest, if he sees it."""
        if of in LARGEST:
            answer = self._client.get(f"/api/v1/{of}/{LARGEST[of]()}/")
            if answer.status_code == STATUS_OK:
                return dict(answer.json())
        answer = self._client.get(f"/api/v1/{of}/?limit=1")
        return next(iter(answer.json().get("results", [])), None)

    def figure(self, role: str, page: Page, address: str) -> Figure:
        status, statements = self._statements(page, address)
        slowest_ms, slowest = max(statements, default=(0.0, ""))
        # Idle connections are closed by the server after a moment; the next request opens one.
        self._connection.close()
        over_port = self._over_port
        http_p50, http_p95 = _times(lambda: self._over_http(page, address), over_port) if over_port else (0.0, 0.0)
        before = _cpu_seconds()
        process_p50, process_p95 = _times(lambda: self._ask(page, address), self._here)
        asked = 1 if process_p50 > LONG_MS else self._here + WARM_UP
        cpu = (_cpu_seconds() - before) * 1000 / asked
        kind = "list" if page.kind == "next" else page.kind
        figures = (http_p50, http_p95, process_p50, process_p95, cpu)
        return Figure(role, page.name, kind, status, *figures, len(statements), slowest_ms, slowest)

    def _ask(self, page: Page, address: str) -> int:
        """The status; of what is streamed until its first rows are there."""
        response: Any = self._client.get(address, headers=dict(page.headers))
        if response.streaming:
            # The heading, and the first lot.
            list(islice(response.streaming_content, 2))
            response.close()
        return int(response.status_code)

    def _statements(self, page: Page, address: str) -> tuple[int, list[tuple[float, str]]]:
        """The status, and each statement with its milliseconds."""
        found: list[tuple[float, str]] = []

        def note(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
            began = time.perf_counter()
            try:
                return execute(sql, params, many, context)
            finally:
                found.append(((time.perf_counter() - began) * 1000, sql))

        with database.execute_wrapper(note):
            status = self._ask(page, address)
        return status, found

    def _over_http(self, page: Page, address: str) -> None:
        self._connection.request("GET", address.replace(" ", "%20"), headers={**self._cookie, **page.headers})
        response = self._connection.getresponse()
        if page.kind != "export":
            response.read()
            return
        response.readline()
        response.readline()
        self._connection.close()


def _cpu_seconds() -> float:
    """Of this process, and of the PostgreSQL process that answers it where that is on this machine."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    own = usage.ru_utime + usage.ru_stime
    connection: Any = database.connection
    if database.vendor != "postgresql" or connection is None:
        return own
    try:
        ran = Path(f"/proc/{connection.info.backend_pid}/schedstat").read_text().split()[0]
    except OSError:
        return own
    return own + int(ran) / 1e9


def _times(ask: Callable[[], object], count: int) -> tuple[float, float]:
    """Median and 95th percentile in milliseconds, after a warm-up. What takes seconds is asked for once."""
    began = time.perf_counter()
    for _ in range(WARM_UP):
        ask()
    warm_up = (time.perf_counter() - began) * 1000
    if warm_up > LONG_MS:
        return warm_up / WARM_UP, warm_up / WARM_UP
    times: list[float] = []
    for _ in range(count):
        began = time.perf_counter()
        ask()
        times.append((time.perf_counter() - began) * 1000)
    times.sort()
    return times[len(times) // 2], times[-(-len(times) * 95 // 100) - 1]
