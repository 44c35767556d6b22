"""Driver `postgresql` on a real server: dumps and files as streams, and restores that change nothing until whole."""

from __future__ import annotations

import io
import os
import pwd
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from agents.drivers import postgresql_databases
from agents.drivers.base import DriverError
from agents.drivers.postgresql_client import Server, explain, program
from backupsite.stack.ports import free_ports
from engine.chunking import ChunkSizes
from engine.errors import CanceledError
from engine.waiting import never_cancel
from engine.writer import WriteResult
from tests.drivers.postgresql_lab import SAFE, SERVICE, Lab, dump_of, feed, restore, running_postgresql
from tests.engine.chunk_support import read_stream, write_stream
from tests.engine.support import Vault
from tests.postgres.cluster import PROGRAMS

SIZES = ChunkSizes(4096, 16384, 65536)
SUM = "SELECT count(*), sum(hashtext(t::text)) FROM t;"
EVERYBODY = "SELECT has_database_privilege('pg_monitor', :'name', 'CONNECT, TEMPORARY');"


@pytest.fixture(scope="module")
def server() -> Iterator[Lab]:
    with running_postgresql() as lab:
        yield lab


@pytest.fixture
def lab(server: Lab) -> Iterator[Lab]:
    """With a database `shop` of some rows."""
    server.sql("CREATE DATABASE shop;")
    server.sql(
        "CREATE TABLE t (id int PRIMARY KEY, what text);"
        "INSERT INTO t SELECT i, md5(i::text) || md5((i * 7)::text) FROM generate_series(1, 20000) i;",
        "shop",
    )
    yield server
    server.drop()


def _back_up(lab: Lab, path: str, vault: Vault, base: WriteResult | None = None) -> WriteResult:
    with lab.driver.open_streams(lab.reading(path)) as [opened]:
        return write_stream(
            vault,
            opened.stream,
            base=base,
            sizes=SIZES,
            check_complete=opened.check_complete,
            pack_size=1 << 20,
            fan_out=64,
        )


def test_a_dump_after_a_small_change_is_small_and_becomes_a_new_database(lab: Lab) -> None:
    lab.sql("CREATE DATABASE other;")
    lab.sql("CREATE TABLE t (id int); INSERT INTO t VALUES (42);", "other")
    vault = Vault()
    first = _back_up(lab, "database/shop", vault)
    lab.sql("UPDATE t SET what = 'changed' WHERE id BETWEEN 9000 AND 9010;", "shop")
    second = _back_up(lab, "database/shop", vault, first)
    other = _back_up(lab, "database/other", vault)

    with lab.driver.open_output(lab.writing("database/new", create=True)) as opened:
        read_stream(vault, second, output=_Fed(opened.output))
        opened.finish(never_cancel)
        assert [warning.code for warning in opened.facts.warnings] == ["database_rights_default"]
    with lab.driver.open_output(lab.writing("database/an odd \"name'", create=True)) as opened:
        read_stream(vault, other, output=_Fed(opened.output))
        opened.finish(never_cancel)

    assert lab.sql(SUM, "new") == lab.sql(SUM, "shop") and lab.sql(EVERYBODY, name="new") == [["t"]]
    assert lab.sql("SELECT id FROM t;", "an odd \"name'") == [["42"]]
    assert second.stats.stored_bytes < first.stats.stored_bytes / 5
    assert lab.databases() == {"shop", "other", "new", "an odd \"name'"}
    assert lab.processes() == []


class _Fed(io.BytesIO):
    """What `read_stream` wants of an output."""

    def __init__(self, output: object) -> None:
        super().__init__()
        self.write = output.write  # type: ignore[method-assign,attr-defined]  # of the driver's own


@pytest.mark.timeout(600)
def test_the_files_of_a_server_become_a_server(lab: Lab) -> None:
    vault = Vault()
    expected = lab.sql(SUM, "shop")
    backup = _back_up(lab, "cluster", vault)

    with lab.driver.open_output(lab.writing("folder/copy", create=True)) as opened:
        read_stream(vault, backup, output=_Fed(opened.output))
        assert not (lab.storage / "copy").exists()
        opened.finish(never_cancel)
    with pytest.raises(DriverError) as again, lab.driver.open_output(lab.writing("folder/copy", overwrite=True)):
        pass

    assert again.value.code == "target_not_empty"
    assert _asked_of_a_copy(lab.storage / "copy", SUM) == "\t".join(expected[0])
    assert {path.name for path in lab.storage.iterdir()} == {"copy"}


def _asked_of_a_copy(folder: Path, statement: str) -> str:
    account = pwd.getpwuid(folder.stat().st_uid)
    port = free_ports(1)[0]
    run = {"user": account.pw_uid, "group": account.pw_gid, "cwd": "/", "check": True}
    options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories='' -c fsync=off"
    control = [PROGRAMS[-1] / "pg_ctl", "-D", folder, "-w"]
    subprocess.run([*control, "-o", options, "-l", folder / "log", "start"], stdout=subprocess.DEVNULL, **run)
    try:
        asking = ["psql", "-AtqF\t", "-h", "127.0.0.1", "-p", str(port), "-U", "backupsite", "-c", statement, "shop"]
        return subprocess.run(asking, capture_output=True, text=True, check=True).stdout.strip()
    finally:
        subprocess.run([*control, "-m", "immediate", "stop"], stdout=subprocess.DEVNULL, **run)


@pytest.mark.parametrize(
    ("path", "options", "code", "told"),
    [
        ("database/shop", {"create": True}, "disk_busy", "already"),
        ("database/shop", {}, "target_not_empty", "overwrite it"),
        (f"database/{'x' * 64}", {"create": True}, "disk_missing", ""),
        ("cluster", {"overwrite": True}, "disk_missing", ""),
        ("folder/none/inner", {}, "disk_missing", ""),
        ("folder/../../etc", {"create": True}, "disk_missing", ""),
        ("folder/.", {"create": True}, "disk_missing", ""),
        ("shop", {"create": True}, "disk_missing", ""),
        ("database/shop", {"overwrite": True}, "disk_busy", "1 connections"),
    ],
)
def test_what_may_not_be_restored_to_is_refused_and_stays(
    lab: Lab, path: str, options: dict[str, bool], code: str, told: str
) -> None:
    expected = lab.sql(SUM, "shop")
    used = subprocess.Popen([program("psql"), "-d", lab.server.address("shop"), "-c", "SELECT pg_sleep(600)"])
    while not lab.sql("SELECT 1 FROM pg_stat_activity WHERE datname = 'shop' AND state = 'active';"):
        time.sleep(0.02)

    with pytest.raises(DriverError) as refused, lab.driver.open_output(lab.writing(path, **options)):
        pass
    used.terminate()
    used.wait()

    assert refused.value.code == code and told in refused.value.message
    assert lab.sql(SUM, "shop") == expected
    assert lab.databases() == {"shop"} and not list(lab.storage.glob(".*"))


@pytest.mark.parametrize("stays", [False, True])
def test_a_connection_that_is_about_to_end_is_waited_for(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, stays: bool
) -> None:
    """The server still lists one whose program has ended, such as of the dump just before."""
    dump, ask, looks = dump_of(lab), Server.ask, 0

    def asked(server: Server, sql: str, **options: str) -> list[list[str]]:
        nonlocal looks
        if sql != postgresql_databases._CONNECTIONS:
            return ask(server, sql, **options)
        looks += 1
        return [["3"]] if stays or looks == 1 else [["0"]]

    monkeypatch.setattr(Server, "ask", asked)
    monkeypatch.setattr(postgresql_databases, "_LOOK_SECONDS", 0)

    if stays:
        with pytest.raises(DriverError, match="in use by 3 connections") as refused:
            restore(lab, dump, "database/shop", overwrite=True)
        assert (refused.value.code, looks) == ("disk_busy", postgresql_databases._LOOKS)
    else:
        restore(lab, dump, "database/shop", overwrite=True)
        assert looks == 2
    assert lab.databases() == {"shop"}


def test_what_a_connection_that_is_waited_for_has_made_is_not_replaced(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Empty when it was looked at first; then its client commits a table, and ends."""
    dump, ask, looks = dump_of(lab), Server.ask, 0
    lab.sql("CREATE DATABASE filling;")

    def asked(server: Server, sql: str, **options: str) -> list[list[str]]:
        nonlocal looks
        if sql != postgresql_databases._CONNECTIONS:
            return ask(server, sql, **options)
        looks += 1
        if looks == 1:
            return [["1"]]
        lab.sql("CREATE TABLE committed (x int);", "filling")
        return [["0"]]

    monkeypatch.setattr(Server, "ask", asked)

    with pytest.raises(DriverError, match="has 1 tables") as refused:
        restore(lab, dump, "database/filling")

    assert (refused.value.code, looks) == ("target_not_empty", 2)


def test_a_database_is_replaced_as_a_whole_and_the_old_one_kept_when_asked(lab: Lab) -> None:
    dump = dump_of(lab)
    expected = lab.sql(SUM, "shop")
    lab.sql("DELETE FROM t WHERE id > 5; CREATE TABLE late (x int);", "shop")

    assert restore(lab, dump, "database/shop", overwrite=True, safety_point=SAFE) == SAFE
    [kept] = lab.databases() - {"shop"}

    assert kept.startswith(SAFE)
    assert lab.sql("SELECT count(*) FROM t;", kept) == [["5"]]
    assert lab.sql(SUM, "shop") == expected
    assert lab.driver.forget([lab.disk("database/shop", {SAFE}), lab.disk("database/other")]) == []
    assert lab.driver.forget([lab.disk("database/shop")]) == [SAFE]
    assert restore(lab, dump, "database/shop", overwrite=True) == ""
    assert lab.databases() == {"shop"} and lab.sql(EVERYBODY, name="shop") == [["t"]]


def test_nobody_else_has_the_database_meanwhile(lab: Lab) -> None:
    dump = dump_of(lab)
    wish = lab.writing("database/new", create=True)
    with pytest.raises(RuntimeError), lab.driver.open_output(wish):
        for opening in (lab.driver.open_output(wish), lab.driver.open_streams(lab.reading("database/new"))):
            with pytest.raises(DriverError) as busy, opening:
                pass
            assert (busy.value.code, busy.value.permanent) == ("disk_busy", False)
        assert lab.driver.forget([lab.disk("database/new")]) == []
        raise RuntimeError("on purpose")

    assert lab.databases() == {"shop"}
    assert restore(lab, dump, "database/new", safety_point=SAFE) == ""
    assert lab.databases() == {"shop", "new"}


@pytest.mark.parametrize("what", ["cut", "other", "row"])
def test_a_restore_that_fails_leaves_what_was_there(lab: Lab, what: str) -> None:
    lab.sql("CREATE TABLE few (secret text); INSERT INTO few VALUES ('geheim'), ('geheim2');", "shop")
    dump = dump_of(lab)
    expected = lab.sql(SUM, "shop")
    broken = {"cut": dump[: len(dump) // 2], "other": b"x" * 3000, "row": dump.replace(b"geheim2", b"gehei\xff2")}

    with pytest.raises(DriverError) as failed:
        restore(lab, broken[what], "database/shop", overwrite=True, safety_point=SAFE)

    assert failed.value.code == ("wrong_stream" if what == "other" else "postgresql_failed")
    assert "geheim" not in failed.value.message
    assert lab.sql(SUM, "shop") == expected
    assert lab.databases() == {"shop"}


@pytest.mark.parametrize("path", ["database/shop", "cluster"])
def test_a_child_that_is_killed_never_makes_a_backup(lab: Lab, path: str) -> None:
    with lab.driver.open_streams(lab.reading(path)) as [opened]:
        opened.stream.read(4096)
        [child] = lab.processes()
        os.kill(int(child.split()[0]), signal.SIGKILL)
        opened.stream.read()

        with pytest.raises(DriverError, match="signal 9"):
            opened.check_complete()


def test_a_cancel_ends_the_child_at_once(lab: Lab) -> None:
    lab.sql("SELECT 1;")
    begun = 0.0

    def cancel() -> bool:
        nonlocal begun
        begun = begun or (time.monotonic() if lab.processes() else 0.0)
        return bool(begun)

    locked = "BEGIN; LOCK TABLE t; SELECT pg_sleep(600)"
    holder = subprocess.Popen([program("psql"), "-d", lab.server.address("shop"), "-c", locked])
    while not lab.sql("SELECT 1 FROM pg_locks WHERE mode = 'AccessExclusiveLock' AND granted;"):
        time.sleep(0.02)
    with (
        pytest.raises(CanceledError),
        lab.driver.open_streams(lab.reading("database/shop")) as [opened],
    ):
        write_stream(Vault(), opened.stream, cancel=cancel, check_complete=opened.check_complete)

    # What it waits for takes ten minutes.
    assert time.monotonic() - begun < 60 and lab.processes() == []
    holder.terminate()
    holder.wait()


def test_a_cancel_is_noticed_while_indexes_are_made(lab: Lab) -> None:
    slow = "BEGIN IF current_database() LIKE 'backupsite-%' THEN PERFORM pg_sleep(600); END IF; RETURN x; END"
    lab.sql(f"CREATE FUNCTION slow(x int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS $$ {slow} $$;", "shop")
    lab.sql("CREATE TABLE one (x int); INSERT INTO one VALUES (1); CREATE INDEX ON one (slow(x));", "shop")
    dump = dump_of(lab)

    with (
        pytest.raises(CanceledError),
        lab.driver.open_output(lab.writing("database/new", create=True)) as opened,
    ):
        feed(opened.output, dump)
        opened.finish(lambda: bool(lab.sql("SELECT 1 FROM pg_stat_activity WHERE wait_event = 'PgSleep';")))

    assert lab.processes() == [] and lab.databases() == {"shop"}


def test_no_secret_is_in_arguments_or_environment(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGPASSWORD", "geheim")
    monkeypatch.setenv("BACKUPSITE_MASTER_KEY", "geheim")
    with lab.driver.open_streams(lab.reading("database/shop")) as [opened]:
        opened.stream.read(10)
        [child] = lab.processes()
        place = Path("/proc", child.split()[0])
        seen = (place / "cmdline").read_bytes() + (place / "environ").read_bytes()

    assert f"service='{SERVICE}'".encode() in seen and b"geheim" not in seen


def test_tablespaces_are_refused_with_what_to_do(lab: Lab) -> None:
    lab.sql("SET allow_in_place_tablespaces = on; CREATE TABLESPACE apart LOCATION '';")
    try:
        with (
            pytest.raises(DriverError, match="database/NAME") as refused,
            lab.driver.open_streams(lab.reading("cluster")),
        ):
            pass
    finally:
        lab.sql("DROP TABLESPACE apart;")

    assert refused.value.code == "has_tablespaces"


def test_older_programs_are_refused_with_what_to_install(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = tmp_path / "pg_dump"
    old.write_text("#!/bin/sh\necho 'pg_dump (PostgreSQL) 9.6.1'\n")
    old.chmod(0o755)
    (tmp_path / "psql").symlink_to(program("psql"))
    monkeypatch.setattr("agents.drivers.postgresql_client._FOLDERS", ())
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(DriverError, match="Install postgresql-client-") as refused:
        dump_of(lab)

    assert refused.value.code == "program_too_old"
    assert lab.driver.probe().reason == "There is no pg_restore on this node; install postgresql-client."


@pytest.mark.parametrize(
    ("path", "service", "code"),
    [
        ("database/none", SERVICE, "disk_missing"),
        ("database/shop", "unknown", "node_misconfigured"),
        ("folder/x", SERVICE, "disk_missing"),
        ("database/", SERVICE, "disk_missing"),
    ],
    ids=["no-such-database", "no-such-service", "no-such-folder", "no-name"],  # SERVICE differs by process
)
def test_what_cannot_be_read_is_named(lab: Lab, path: str, service: str, code: str) -> None:
    wish = lab.reading(path)
    address = type(wish.disks[0].address)(str(lab.storage), path, 1, service)
    wish = type(wish)([type(wish.disks[0])(address)], wish.new_point)

    with pytest.raises(DriverError) as refused, lab.driver.open_streams(wish):
        pass

    assert refused.value.code == code


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (
            'pg_restore: error: COPY failed: ERROR:  invalid input: "geheim"\nDETAIL:  geheim',
            "postgresql_failed",
            "COPY",
        ),
        ("pg_dump: error: query failed: ERROR:  permission denied for table t", "not_permitted", "table t"),
        ("psql: error: connection to server failed: Connection refused", "server_unreachable", "refused"),
        ("pg_restore: error: could not write: No space left on device", "no_space", "space"),
        ("", "postgresql_failed", "exit status 3"),
    ],
)
def test_words_of_programs_become_errors_without_values_of_rows(words: str, code: str, told: str) -> None:
    error = explain(words, 3)

    assert (error.code, told in error.message, "geheim" in error.message) == (code, True, False)
