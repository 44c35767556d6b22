"""The tool as a person runs it: a process with a bucket, read-only credentials and the recovery key, nothing else."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

from engine.crypto import generate_tenant_key
from engine.recovery import RecoveryKey
from tests.alone.conftest import ROOT_OF_THE_CHECKOUT, RunTool
from tests.alone.support import RECOVERY_KEY, BotoSink, Server, flipped
from tests.engine.support import noise

pytestmark = pytest.mark.stack

KIB = 1024


def image(seed: int, *, size: int = 700 * KIB) -> bytearray:
    """Noise, zeros, and a size that is no multiple of a block."""
    data = bytearray(noise(size + 123, str(seed)))
    data[100 * KIB : 300 * KIB] = bytes(200 * KIB)
    return data


@pytest.fixture
def server(sink: BotoSink) -> Server:
    return Server(sink, sink)


def texts(done: subprocess.CompletedProcess[bytes]) -> tuple[str, str]:
    out, err = done.stdout.decode("utf-8", "replace"), done.stderr.decode("utf-8", "replace")
    assert "Traceback" not in out + err
    assert RECOVERY_KEY.encode().splitlines()[0] not in out + err
    return out, err


@pytest.mark.case("RS-13")
def test_bucket_and_key_alone_restore_every_backup_though_everything_was_covered(
    sink: BotoSink, server: Server, tool: RunTool, tmp_path: Path
) -> None:
    first, second = image(1), image(1)
    random_place = random.Random(7)
    for _ in range(20):
        place = random_place.randrange(len(second))
        second[place] ^= 0xFF
    server.back_up(first)
    server.back_up(second, base=server.results[0])
    server.describe()
    sink.cover()

    listed = tool("list", "--json", bucket=sink.bucket)
    assert listed.returncode == 0, texts(listed)
    disk = json.loads(listed.stdout)["domains"][0]["disks"][0]
    assert [backup["complete"] for backup in disk["backups"]] == [True, True]
    assert disk["findings"] == []
    assert disk["backups"][0]["locked_until"].startswith(sink.retain_until.date().isoformat())
    assert [backup["size_bytes"] for backup in disk["backups"]] == [len(first), len(second)]

    for backup, wanted in zip(disk["backups"], (first, second), strict=True):
        target = tmp_path / backup["backup"]
        restored = tool("restore", backup["backup"][:12], "--to", target, "--json", bucket=sink.bucket)
        assert restored.returncode == 0, texts(restored)
        assert target.read_bytes() == wanted
        assert json.loads(restored.stdout)["complete"] is True
        assert target.stat().st_mode & 0o777 == 0o600

    checked = tool("check", "--read-data", bucket=sink.bucket)
    assert checked.returncode == 0, texts(checked)
    assert "2 backups" in texts(checked)[0]


def test_the_list_for_people_names_what_they_know(sink: BotoSink, server: Server, tool: RunTool) -> None:
    result = server.back_up(image(2))
    server.describe()

    out, err = texts(tool("list", bucket=sink.bucket))

    assert "Acme GmbH / server web01" in out
    assert "Disk 1 vda" in out
    assert result.manifest.sha256[:12] in out
    assert "complete" in out and "WARNING" not in out
    assert err == ""


def test_standard_output_gets_the_image_and_nothing_else(sink: BotoSink, server: Server, tool: RunTool) -> None:
    data = image(3)
    result = server.back_up(data)
    server.describe()

    done = tool("restore", result.manifest.sha256, "--to", "-", bucket=sink.bucket)

    assert done.returncode == 0, done.stderr
    assert done.stdout == data
    assert b"complete" in done.stderr


@pytest.mark.case("RS-06")
def test_a_damaged_and_a_missing_pack_are_told_and_all_else_is_restored(
    sink: BotoSink, server: Server, tool: RunTool, tmp_path: Path
) -> None:
    """Nothing can be removed from a locked bucket, so the damage is in a copy of it, whose version ids are others."""
    data = image(4)
    result = server.back_up(data)
    server.describe()
    packs = [key for key in sink.all_keys() if "/p/" in key]
    copy = f"{sink.bucket}-copy"
    sink.client.create_bucket(Bucket=copy)
    for key in sink.all_keys():
        body = sink.client.get_object(Bucket=sink.bucket, Key=key)["Body"].read()
        if key != packs[1]:
            body = flipped(body, 100) if key == packs[0] else body
            sink.client.put_object(Bucket=copy, Key=key, Body=body)
    target = tmp_path / "image"

    done = tool("restore", result.manifest.sha256[:8], "--to", target, "--json", bucket=copy)

    assert done.returncode == 3, texts(done)
    report = json.loads(done.stdout)
    assert report["complete"] is False
    restored = target.read_bytes()
    lost = bytearray(len(data))
    for damage in report["damaged_ranges"]:
        lost[damage["offset"] : damage["offset"] + damage["length"]] = b"\1" * damage["length"]
        assert restored[damage["offset"] : damage["offset"] + damage["length"]] == bytes(damage["length"])
    assert all(lost[place] or restored[place] == data[place] for place in range(len(data)))
    assert 4096 <= lost.count(1) <= 4096 + 64 * KIB + 4096

    checked = tool("check", "--read-data", "--json", bucket=copy)
    assert checked.returncode == 3, texts(checked)
    found = {bad["key"]: bad for bad in json.loads(checked.stdout)["bad_objects"]}
    assert {key: bad["problem"] for key, bad in found.items()} == {packs[0]: "damaged", packs[1]: "missing"}
    assert found[packs[0]]["backups"] == [result.manifest.sha256]

    listed = tool("list", bucket=copy)
    assert "INCOMPLETE: 1 objects are missing" in texts(listed)[0]


def test_a_stream_stops_before_the_damage_unless_told_to_fill_it(sink: BotoSink, server: Server, tool: RunTool) -> None:
    data = image(5)
    result = server.back_up(data)
    server.describe()
    packs = [ref.key for ref in result.new_objects if "/p/" in ref.key]
    copy = f"{sink.bucket}-copy"
    sink.client.create_bucket(Bucket=copy)
    for key in sink.all_keys():
        if key != packs[-1]:
            body = sink.client.get_object(Bucket=sink.bucket, Key=key)["Body"].read()
            sink.client.put_object(Bucket=copy, Key=key, Body=body)

    stopped = tool("restore", result.manifest.sha256, "--to", "-", bucket=copy)
    filled = tool("restore", result.manifest.sha256, "--to", "-", "--fill-damaged", bucket=copy)

    assert stopped.returncode == filled.returncode == 3
    assert data.startswith(stopped.stdout) and len(stopped.stdout) < len(data)
    assert len(filled.stdout) == len(data)
    assert b"could not be restored" in filled.stderr


def test_an_existing_target_is_asked_for_and_resumed(
    sink: BotoSink, server: Server, tool: RunTool, tmp_path: Path
) -> None:
    data = image(6)
    result = server.back_up(data)
    server.describe()
    target = tmp_path / "image"
    target.write_bytes(data[: 400 * KIB] + noise(500 * KIB, "old"))
    words = ("restore", result.manifest.sha256, "--to", target, "--json")

    refused = tool(*words, bucket=sink.bucket)
    assert refused.returncode == 2
    assert "--force" in texts(refused)[1]
    unasked = tool(*words, "--force", bucket=sink.bucket)
    assert unasked.returncode == 2
    assert "--yes" in texts(unasked)[1]
    assert target.stat().st_size == 900 * KIB

    resumed = tool(*words, "--force", "--yes", "--resume", bucket=sink.bucket)
    assert resumed.returncode == 0, texts(resumed)
    assert target.read_bytes() == data
    report = json.loads(resumed.stdout)
    assert report["same_bytes"] >= 390 * KIB
    assert report["fetched_bytes"] < 400 * KIB


def test_the_tool_needs_nothing_of_the_service() -> None:
    """Only the engine, and of its libraries none that serves the portal: all else is missing at night."""
    code = """
import sys
for name in ("django", "celery", "redis", "rest_framework", "agents", "backups", "backupsite", "common", "vaults"):
    sys.modules[name] = None
from engine.alone.cli import main
sys.exit(main(["keygen", "--catalogue", "ab" * 32]))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT_OF_THE_CHECKOUT, capture_output=True, timeout=60, check=False
    )

    out, err = texts(done)
    assert done.returncode == 0, err
    assert RecoveryKey.decode(out).catalogue_fingerprint == bytes.fromhex("ab" * 32)


def test_a_wrong_key_ends_without_a_traceback(
    sink: BotoSink, server: Server, tool: RunTool, key_file: Path, tmp_path: Path
) -> None:
    result = server.back_up(noise(5000))
    server.describe()
    key_file.write_text(RecoveryKey(generate_tenant_key().private, RECOVERY_KEY.catalogue_fingerprint).encode())

    done = tool("restore", result.manifest.sha256, "--to", tmp_path / "image", bucket=sink.bucket)

    out, err = texts(done)
    assert done.returncode == 5
    assert "was made for this recovery key" in err
    assert len(err.splitlines()) == 1
    assert out == ""
    assert not (tmp_path / "image").exists()
