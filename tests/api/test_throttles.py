"""Rates: counted for each principal and scope, with a clock that is passed in."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from django.core.cache import cache, caches
from django.test import Client, RequestFactory, override_settings
from django.utils.module_loading import import_string
from hypothesis import given
from hypothesis import strategies as st

from backupsite.caches import caches_from_broker
from tenants.api.throttling import PrincipalThrottle, Rate, count_request, decide, parse_rate, principal_of
from tests.factories import make_person, make_token
from tests.worlds import World

RATES = {"read": "3/m", "write": "2/m", "export": "1/m", "refused": "2/m"}


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    """The time is its only item; the shared counters are empty before and after."""
    cache.clear()
    caches["local"].clear()
    now = [1_000_040.0]
    monkeypatch.setattr(PrincipalThrottle, "clock", staticmethod(lambda: now[0]))
    with override_settings(API_RATES=RATES):
        yield now
    cache.clear()
    caches["local"].clear()


def statuses(client: Any, address: str, times: int, method: str = "get") -> list[int]:
    return [getattr(client, method)(address).status_code for _ in range(times)]


def test_a_person_is_stopped_at_the_rate_and_let_go_on_after_it(world: World, clock: list[float]) -> None:
    client = world.client("admin_a")
    assert statuses(client, "/api/v1/me/", 4) == [200, 200, 200, 429]

    clock[0] += 120
    assert statuses(client, "/api/v1/me/", 1) == [200]


def test_the_refusal_says_when_and_in_the_one_shape(world: World, clock: list[float]) -> None:
    client = world.client("admin_a")
    statuses(client, "/api/v1/me/", 3)
    clock[0] += 0.5

    answer = client.get("/api/v1/me/")

    assert (answer["Content-Type"], answer.json()["code"]) == ("application/problem+json", "throttled")
    assert answer["Retry-After"] == "40"
    assert (answer["RateLimit-Limit"], answer["RateLimit-Remaining"], answer["RateLimit-Reset"]) == ("3", "0", "40")


def test_headers_count_down(world: World, clock: list[float]) -> None:
    client = world.client("admin_a")

    assert [client.get("/api/v1/me/")["RateLimit-Remaining"] for _ in range(3)] == ["2", "1", "0"]


@pytest.mark.case("AZ-14")
def test_others_are_not_touched(world: World, clock: list[float]) -> None:
    statuses(world.client("admin_a"), "/api/v1/me/", 9)

    assert statuses(world.client("admin_b"), "/api/v1/me/", 1) == [200]


def test_each_scope_has_its_own_count(world: World, clock: list[float]) -> None:
    client = world.client("admin_a")
    preview = {"cron": "0 1 * * *"}
    statuses(client, "/api/v1/me/", 3)

    writes = [client.post("/api/v1/definitions/preview/", preview).status_code for _ in range(3)]
    exports = statuses(client, "/api/v1/backups/?format=csv", 2)

    assert (writes, exports) == ([200, 200, 429], [200, 429])


def test_each_token_has_its_own_count(world: World, clock: list[float]) -> None:
    person = world.people["admin_a"]
    assert person is not None
    for _ in range(2):
        token = make_token(person)
        client = world.client("anonymous")
        client.credentials(HTTP_AUTHORIZATION=f"Bearer {token}")
        assert statuses(client, "/api/v1/me/", 4) == [200, 200, 200, 429]


def test_trying_tokens_is_limited_by_address(db: None, clock: list[float]) -> None:
    tries = [
        Client(headers={"Authorization": f"Bearer bks_{number}"})
        .get("/api/v1/me/", REMOTE_ADDR="203.0.113.9")
        .status_code
        for number in range(4)
    ]

    assert tries == [401, 401, 429, 429]
    assert Client().get("/api/v1/me/", REMOTE_ADDR="203.0.113.10").status_code == 401


def test_an_address_of_ipv6_is_its_network(rf: RequestFactory) -> None:
    one, two, other = (
        principal_of(rf.get("/", REMOTE_ADDR=text)) for text in ("2001:db8::1", "2001:db8::ffff:1", "2001:db8:0:1::1")
    )

    assert one == two != other


def test_without_the_shared_cache_each_process_counts_for_itself(
    world: World, clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Redis may be down: the API stays up, and is not without a limit."""
    nowhere = caches_from_broker("redis+socket:///nowhere/broker.sock")["default"]
    down = import_string(nowhere["BACKEND"])(nowhere["LOCATION"], nowhere)

    monkeypatch.setattr("tenants.api.throttling.cache", down)

    assert statuses(world.client("admin_a"), "/api/v1/me/", 4) == [200, 200, 200, 429]


def test_a_scope_without_a_rate_has_no_limit(clock: list[float]) -> None:
    assert count_request("nothing", "person:1", now=clock[0]) is None


@pytest.mark.parametrize(
    ("text", "rate"), [("5/s", Rate(5, 1)), ("300/m", Rate(300, 60)), ("2/h", Rate(2, 3600)), ("1/d", Rate(1, 86400))]
)
def test_rates_are_read(text: str, rate: Rate) -> None:
    assert parse_rate(text) == rate


@given(
    limit=st.integers(1, 50),
    gaps=st.lists(st.floats(0, 90, allow_nan=False), min_size=1, max_size=300),
)
def test_no_more_than_twice_the_limit_passes_in_any_window(limit: int, gaps: list[float]) -> None:
    """The window before is taken as evenly spread: an estimate, but never worse than two fixed windows."""
    rate, now, counts, passed = Rate(limit, 60), 0.0, {}, []
    for gap in gaps:
        now += gap
        window = int(now // 60)
        counts[window] = counts.get(window, 0) + 1
        if decide(rate, now=now, earlier=counts.get(window - 1, 0), current=counts[window]).allowed:
            passed.append(now)

    for start in passed:
        assert len([at for at in passed if start <= at < start + 60]) <= 2 * limit


def test_the_window_slides() -> None:
    rate = Rate(10, 60)

    assert not decide(rate, now=60.0, earlier=10, current=1).allowed
    assert decide(rate, now=90.0, earlier=10, current=5).allowed
    assert not decide(rate, now=90.0, earlier=10, current=6).allowed
    assert decide(rate, now=119.9, earlier=10, current=9).allowed


@pytest.mark.parametrize(
    ("url", "backend", "location"),
    [
        ("redis://host:6379/0", "CountingRedisCache", "redis://host:6379/0"),
        ("rediss://host/1", "CountingRedisCache", "rediss://host/1"),
        ("redis+socket:///run/broker.sock", "CountingRedisCache", "unix:///run/broker.sock"),
        ("filesystem://", "DatabaseCache", "backupsite_cache"),
        ("amqp://host", "DatabaseCache", "backupsite_cache"),
        ("memory://", "LocMemCache", "default"),
    ],
)
def test_the_counters_are_where_all_processes_reach_them(url: str, backend: str, location: str) -> None:
    shared = caches_from_broker(url)["default"]

    assert (shared["BACKEND"].rsplit(".")[-1], shared["LOCATION"]) == (backend, location)


def test_a_person_is_told_from_another_by_his_key(db: None, rf: RequestFactory) -> None:
    request = rf.get("/")
    request.user = make_person()

    assert principal_of(request) == f"person:{request.user.pk}"
