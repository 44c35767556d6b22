"""The bench measures what it says: its stores and its signer are like the real ones, its change is always the same."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from botocore.auth import S3SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from engine.errors import StoreNotFoundError
from engine.scan import Extent
from engine.store.base import ObjectRef
from engine.store.http import PutSpec
from tests.bench import images, verdict
from tests.bench.measured import run_measured
from tests.bench.stores import DirectoryStore, Signer

MIB = 1024 * 1024
SHA256 = "5f" * 32
SPEC = PutSpec(key=f"t/a/d/b/p/{SHA256}", sha256=SHA256, md5_base64="AAAAAAAAAAAAAAAAAAAAAA==", size_bytes=7)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """Two islands of data in a sparse file."""
    path = tmp_path / "disk.img"
    with path.open("wb") as file:
        file.truncate(8 * MIB)
        for offset in (MIB, 5 * MIB):
            file.seek(offset)
            file.write(os.urandom(MIB))
    return path


def test_the_directory_gives_back_ranges_of_what_was_put(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path)

    ref = store.put(key="t/a/p/x", data=memoryview(b"0123456789"), sha256=SHA256)

    assert (store.get(ref), store.get(ref, offset=3, length=4)) == (b"0123456789", b"3456")
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["x"]


def test_the_directory_says_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(StoreNotFoundError):
        DirectoryStore(tmp_path).get(ObjectRef("t/a/p/x", SHA256, 1))


@pytest.mark.parametrize("method", ["PUT", "GET"])
def test_the_signer_signs_as_the_sdk_does(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    now = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
    signer = Signer("http://127.0.0.1:8333", "ours", "KEY", "secret", now=lambda: now)

    if method == "PUT":
        grant = signer.grant_puts([SPEC])[0]
    else:
        grant = signer.grant_gets([ObjectRef(SPEC.key, SHA256, 7, version_id="v+/1")])[0]

    monkeypatch.setattr("botocore.auth.get_current_datetime", lambda: now)
    query = {name: values[0] for name, values in parse_qs(urlsplit(grant.url).query).items() if name == "versionId"}
    request = AWSRequest(method, grant.url.partition("?")[0], headers=dict(grant.headers), params=query)
    S3SigV4QueryAuth(Credentials("KEY", "secret"), "s3", "us-east-1", expires=900).add_auth(request)
    assert _query(grant.url) == _query(request.prepare().url)


def _query(url: str) -> dict[str, list[str]]:
    return parse_qs(urlsplit(url).query)


def test_every_header_of_a_put_is_signed() -> None:
    grant = Signer("http://127.0.0.1:8333", "ours", "KEY", "secret").grant_puts([SPEC])[0]

    signed = set(_query(grant.url)["X-Amz-SignedHeaders"][0].split(";"))
    assert signed == {name.lower() for name in grant.headers} | {"host"}
    assert "if-none-match" in signed and "x-amz-object-lock-mode" in signed


def test_a_patch_changes_its_share_of_the_data_and_can_be_undone(image: Path) -> None:
    before = image.read_bytes()

    patch = images.random_patch(image, share=0.1, seed=1)
    undo = patch.apply(image)
    after = image.read_bytes()
    undo.apply(image)

    changed = [at // 4096 for at in range(0, 8 * MIB, 4096) if before[at : at + 4096] != after[at : at + 4096]]
    assert changed == list(patch.pages) and len(changed) == 51
    assert all(256 <= page < 512 or 1280 <= page < 1536 for page in changed)
    assert image.read_bytes() == before


def test_a_seed_makes_the_same_patch_again(image: Path) -> None:
    first, second, other = (images.random_patch(image, share=0.1, seed=seed) for seed in (1, 1, 2))

    assert first == second != other


@pytest.mark.parametrize("block_size", [None, 16384])
def test_a_backup_and_its_change_come_back(image: Path, tmp_path: Path, block_size: int | None) -> None:
    patch = images.random_patch(image, share=0.1, seed=3)
    full = image.read_bytes()

    _ours("backup", tmp_path, image, block_size=block_size)
    patch.apply(image)
    _ours("backup", tmp_path, image, base=0, block_size=block_size, changed=_pairs(patch.extents))
    for number in (0, 1):
        _ours("restore", tmp_path, tmp_path / f"restored-{number}", base=number)

    assert (tmp_path / "restored-0").read_bytes() == full
    assert (tmp_path / "restored-1").read_bytes() == image.read_bytes() != full


def _pairs(extents: list[Extent]) -> list[tuple[int, int]]:
    return [(extent.offset, extent.length) for extent in extents]


def _ours(job: str, folder: Path, image: Path, **order: Any) -> None:
    told = {"base": None, "changed": None, "store": {"path": str(folder / "store")}, "state": str(folder / "state")}
    text = json.dumps(told | order | {"image": str(image)})
    subprocess.run([sys.executable, "-m", "tests.bench.ours", job], input=text, text=True, check=True)


def test_a_measured_program_tells_its_own_peak_and_time() -> None:
    usage = run_measured([sys.executable, "-c", "x = b'x' * 150_000_000; sum(range(3_000_000))"])

    assert 150_000_000 < usage.peak_bytes < 250_000_000
    assert 0.01 < usage.cpu_seconds <= usage.wall_seconds * 1.5


def test_a_program_that_fails_is_not_measured() -> None:
    with pytest.raises(RuntimeError, match="no such luck"):
        run_measured([sys.executable, "-c", "import sys; sys.exit('no such luck')"])


def test_a_ratio_below_its_aim_is_missed() -> None:
    def row(seconds: float) -> dict[str, float]:
        return {"wall_seconds": seconds, "cpu_seconds": seconds, "growth_bytes": seconds}

    figures = {verdict.FULL: {"ours": row(2.0), "restic": row(5.9), "borg": row(4.0)}}

    told = {(ratio.aim.peer, ratio.aim.figure): ratio.is_met for ratio in verdict.ratios(figures)}
    assert told == {
        ("restic", "wall_seconds"): False,
        ("restic", "cpu_seconds"): False,
        ("borg", "wall_seconds"): True,
        ("borg", "cpu_seconds"): True,
    }
