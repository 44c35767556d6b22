"""What a person meets when a part of the running service is killed, and that nothing is lost or half done."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from backupsite.stack.errors import StackError
from backupsite.stack.process import Child
from tests.e2e.agent import Metal
from tests.e2e.conftest import DISK_MIB, MIB, PATIENCE_SECONDS, Running
from tests.e2e.files import tree_of
from tests.engine.chunk_support import snapshot

pytestmark = [pytest.mark.stack, pytest.mark.long, pytest.mark.timeout(1500)]


@pytest.mark.case("CP-01")
def test_a_worker_killed_in_the_middle_is_replaced_within_a_minute(running: Running) -> None:
    before = len(running.good_backups())
    running.write_disk("web01")
    job_id = running.back_up_to_be_disturbed()

    killed_at = datetime.now(UTC)
    worker = running.stack.child("node")
    killed = worker.pid
    worker.kill()
    wait_until_started_again(running, worker, killed)
    # The minute is that of the lease and of the sweep: how long a program takes to start is the machine's.
    ready_at = datetime.now(UTC)
    job = running.wait_until_ended(job_id, timeout_seconds=PATIENCE_SECONDS)

    codes = [event["code"] for event in job["events"]]
    assert job["state"] == "ok", job["message"]
    assert "taken_over" in codes
    assert codes.count("ok") == 1
    assert len(running.good_backups()) == before + 1
    taken_over = next(event["at"] for event in job["events"] if event["code"] == "taken_over")
    assert killed_at < datetime.fromisoformat(taken_over) < ready_at + timedelta(minutes=1)


def wait_until_started_again(running: Running, child: Child, killed: int) -> None:
    """By the stack itself. `killed` is the process that it was."""
    running.api.wait(
        lambda: {"pid": child.pid} if child.running and child.pid != killed else None,
        timeout_seconds=PATIENCE_SECONDS,
        what=f"{child.name} was not started again",
    )
    child.wait_ready()


def test_a_storage_that_dies_in_the_middle_fails_the_backup_and_no_other(running: Running) -> None:
    before = {backup["id"] for backup in running.good_backups()}
    running.write_disk("web01")
    job_id = running.back_up_to_be_disturbed()

    running.stack.child("weed").stop()
    try:
        job = running.wait_until_ended(job_id, timeout_seconds=PATIENCE_SECONDS)
    finally:
        running.stack.child("weed").start()

    assert job["state"] == "failed"
    assert job["code"].startswith("store_"), job
    assert job["message"] and "Traceback" not in job["message"]
    assert {backup["id"] for backup in running.good_backups()} == before
    again = running.wait_until_ended(running.back_up_now(), timeout_seconds=PATIENCE_SECONDS)
    assert again["state"] == "ok", again["message"]


def test_a_broker_that_was_away_delays_and_loses_nothing(running: Running) -> None:
    running.stack.child("broker").stop()
    try:
        job_id = running.back_up_now()
        assert running.job(job_id)["state"] == "pending"
    finally:
        running.stack.child("broker").start()

    job = running.wait_until_ended(job_id, timeout_seconds=PATIENCE_SECONDS)

    assert job["state"] == "ok", job["message"]


def test_a_restore_comes_back_identical_after_all_that(running: Running) -> None:
    backup = running.good_backups()[0]
    target = running.rows["disks"]["web02"]["id"]

    job_id = running.api.post(f"backups/{backup['id']}/restore/", {"target": target, "confirmation": "web02"})["id"]
    job = running.wait_until_ended(job_id, timeout_seconds=PATIENCE_SECONDS)

    assert job["state"] == "ok", job["message"]
    assert running.disk_path("web02").read_bytes() == running.disk_path("web01").read_bytes()


def test_an_image_that_is_gone_is_said_in_words(running: Running) -> None:
    path = running.disk_path("web01")
    aside = path.with_suffix(".aside")
    path.rename(aside)
    try:
        job = running.wait_until_ended(running.back_up_now(), timeout_seconds=PATIENCE_SECONDS)
    finally:
        aside.rename(path)

    assert (job["state"], job["code"]) == ("failed", "disk_missing")
    assert "is not there" in job["message"]


def test_a_target_that_became_smaller_is_refused_before_the_first_write(running: Running) -> None:
    path = running.disk_path("web02")
    with path.open("r+b") as file:
        file.truncate(DISK_MIB * MIB // 2)
    before = path.read_bytes()
    backup = running.good_backups()[0]
    body = {"target": running.rows["disks"]["web02"]["id"], "confirmation": "web02"}

    job = running.wait_until_ended(
        running.api.post(f"backups/{backup['id']}/restore/", body)["id"], timeout_seconds=PATIENCE_SECONDS
    )

    assert (job["state"], job["code"]) == ("failed", "target_too_small")
    assert path.read_bytes() == before


def test_a_tree_of_files_goes_there_and_back_and_is_read_once(running: Running) -> None:
    root, definition = tree_of(running)
    before = snapshot(os.fsencode(root))

    def run(path: str, body: dict[str, object]) -> dict[str, object]:
        job = running.wait_until_ended(running.api.post(path, body)["id"], timeout_seconds=PATIENCE_SECONDS)
        assert job["state"] == "ok", job["message"]
        return job

    now = f"definitions/{definition['id']}/backup-now/"
    first, second = (running.api.get(f"backups/{run(now, {})['backup']}/") for _ in range(2))
    order = {"target": definition["disk"], "folder": "back"}
    run(f"backups/{second['id']}/restore/", order)
    run(f"backups/{second['id']}/restore/", {**order, "folder": "one", "paths": ["d0/\\xff\\xfe", "d6/linked"]})

    assert first["counts"]["files"] == 296 and first["counts"]["hard_links"] == 1
    assert first["read_bytes"] < 2_000_000 < 50_000_000 < first["size_bytes"]
    assert (second["read_bytes"], second["counts"]["changed_entries"]) == (0, 0)
    assert snapshot(os.fsencode(root / "back")) == before
    assert sorted(os.listdir(root / "one")) == ["d0", "d6"]
    assert os.listdir(os.fsencode(root) + b"/one/d0") == [b"\xff\xfe"]


@pytest.fixture
def metal(running: Running, tmp_path: Path) -> Iterator[Metal]:
    if os.geteuid() != 0:
        pytest.skip("a whole server is read by root alone")
    metal = Metal(running, tmp_path)
    yield metal
    metal.end()


def files_of(root: Path) -> dict[bytes, tuple[Any, ...]]:
    """But when the folder with a file system of its own was changed: what is read of it is made in there."""
    found = snapshot(os.fsencode(root))
    kind, mode, owner, group, _, *more = found[b"/data"]
    return {**found, b"/data": (kind, mode, owner, group, *more)}


@pytest.mark.case("AG-14")
def test_a_server_is_ordered_backed_up_by_its_agent_lost_and_brought_back_on_another(
    running: Running, metal: Metal
) -> None:
    before = files_of(metal.root)
    # It calls itself otherwise than it was ordered.
    assert "waits for the approval" in metal.enrolled
    running.api.post(f"agents/{metal.agent}/approve/", {})

    metal.run("run")
    metal.run("run")

    kept = f"backups/?server={metal.server}&status=ok"
    found = running.api.get(kept)["results"]
    files = 298 if metal.has_btrfs else 296
    assert [one["counts"]["files"] for one in found] == [files, files]
    assert found[1]["stored_bytes"] > found[0]["stored_bytes"]
    assert found[0]["name"] in metal.owner.open(f"/servers/{metal.server}/").text
    assert metal.owner.open(f"/backups/{found[0]['id']}/restore/").status_code == 403
    if metal.has_btrfs:
        # Read from a snapshot, subvolume and all, and none of it is left.
        warnings = running.api.get(f"backups/{found[0]['id']}/")["warnings"]
        [told] = [one["message"] for one in warnings if one["code"] == "not_one_moment"]
        assert told == "Without a snapshot, so files there are of different moments: /."
        assert not list((metal.root / "data").glob(".backupsite*"))
    metal.be_lost_and_replaced(running)
    assert found[0]["name"] in metal.run("list")
    assert files_of(metal.restore(running, found[0]["name"])) == before
    # Who leaves takes its keys along, and nothing that is in the vault.
    metal.leave_and_be_replaced(running)
    assert [one["id"] for one in running.api.get(kept)["results"]] == [one["id"] for one in found]
    assert files_of(metal.restore(running, found[0]["name"])) == before


def test_a_bad_cron_is_refused_with_words(running: Running) -> None:
    body = {"disk": running.rows["disks"]["web02"]["id"], "name": "bad", "cron": "61 * * * *", "time_zone": "UTC"}

    with pytest.raises(StackError, match="Example: 0 22"):
        running.api.post("definitions/", body)


@pytest.mark.case("AZ-20")
def test_no_secret_is_in_any_log(running: Running) -> None:
    secrets = running.stack.secrets
    told = [secrets.master_key, secrets.django_secret_key, running.rows["token"]]
    told += [credential.secret_key for credential in secrets.s3.values()]
    told += [login["password"] for login in running.rows["logins"]]

    text = "".join(path.read_text(errors="replace") for path in (running.stack.settings.data / "log").glob("*"))

    assert text
    assert not [secret[:4] for secret in told if secret in text]
    assert "X-Amz-Signature=" not in text.replace("X-Amz-Signature=[removed]", "")
