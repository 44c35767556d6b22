"""Every kind of backup comes back: disk images, streams and file trees. Over a model store, in this process."""

from __future__ import annotations

import fcntl
import io
import os
from pathlib import Path
from typing import Any

import pytest

from engine.alone.catalogue import open_domain, read_manifests
from engine.alone.checking import check_domain
from engine.alone.layout import DomainPlace
from engine.alone.listing import list_domain
from engine.alone.output import outcome_json
from engine.alone.restoring import NotConfirmedError, RestoreOrder, RestoreOutcome, check_order, restore_backup
from engine.backup import WriteContext
from engine.crypto import RandomBytes
from engine.errors import CanceledError, EngineError
from engine.stream_writer import write_stream_backup
from engine.targets import TargetError
from engine.tree_writer import write_tree_backup
from tests.alone.support import (
    NOW,
    RECOVERY_KEY,
    WRITER_KEY,
    ModelBucket,
    Server,
    copy_without,
    flipped,
    model_server,
)
from tests.engine.support import noise

PLACE = DomainPlace("acme", "web01")
DATA = noise(3_000_000, "stream")


def context(server: Server, feature: str) -> WriteContext:
    random_bytes: RandomBytes = server.random_bytes
    return WriteContext(
        tenant=server.tenant,
        domain=server.domain,
        source_id="dump",
        sequence=1,
        created_at=NOW,
        domain_keys=server.domain_keys,
        tenant_public_key=server.tenant_public_key,
        writer_key=WRITER_KEY,
        random_bytes=random_bytes,
        required_features=(feature,),
        pack_size=1024 * 1024,
    )


def stream_vault() -> ModelBucket:
    server, bucket = model_server()
    write_stream_backup(source=io.BytesIO(DATA), sink=bucket.store, base=None, context=context(server, "chunk-stream"))
    server.describe()
    return bucket


def tree_vault(root: Path) -> ModelBucket:
    root.mkdir()
    (root / "etc").mkdir()
    (root / "etc" / "hosts").write_text("127.0.0.1 localhost\n")
    (root / "big").write_bytes(DATA)
    (root / "link").symlink_to("etc/hosts")
    os.mkfifo(root / "pipe")
    server, bucket = model_server()
    write_tree_backup(root=root, sink=bucket.store, base=None, context=context(server, "file-tree"))
    server.describe()
    return bucket


def disk_vault() -> ModelBucket:
    server, bucket = model_server()
    server.back_up(DATA)
    server.describe()
    return bucket


def restore(bucket: ModelBucket, to: Path | str, *, cancel: Any = lambda: False, **order: Any) -> RestoreOutcome:
    domain = open_domain(bucket, PLACE, RECOVERY_KEY)
    found = next(read_manifests(bucket, domain))
    wanted = RestoreOrder(to=str(to), **order)
    return restore_backup(bucket, domain, found, wanted, progress=lambda _: None, cancel=cancel)


def with_damage(bucket: ModelBucket, number: int = 0) -> ModelBucket:
    pack = [version for version in bucket.store.list_versions() if "/p/" in version.key][number]
    store = copy_without(bucket.store, {pack.key})
    store.put_object(key=pack.key, data=flipped(pack.data, 5000))
    return ModelBucket(store)


def test_a_stream_comes_back_in_a_file(tmp_path: Path) -> None:
    bucket = stream_vault()
    target = tmp_path / "dump"
    target.write_bytes(b"old" * 2_000_000)

    outcome = restore(bucket, target, force=True)

    assert outcome.is_complete
    assert target.read_bytes() == DATA


def test_a_stream_comes_back_on_standard_output(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    outcome = restore(stream_vault(), "-")

    assert outcome.is_complete
    assert capfdbinary.readouterr().out == DATA


@pytest.mark.parametrize("fill_damaged", [False, True])
def test_a_damaged_stream_stops_before_the_damage_or_is_filled(tmp_path: Path, fill_damaged: bool) -> None:
    target = tmp_path / "dump"

    outcome = restore(with_damage(stream_vault()), target, fill_damaged=fill_damaged)

    restored = target.read_bytes()
    assert not outcome.is_complete
    if not fill_damaged:
        assert DATA.startswith(restored) and len(restored) < len(DATA)
        return
    expected = bytearray(DATA)
    for offset, length in outcome.damaged:
        expected[offset : offset + length] = bytes(length)
    assert restored == expected


def test_a_tree_comes_back_in_a_new_directory(tmp_path: Path) -> None:
    bucket = tree_vault(tmp_path / "source")
    target = tmp_path / "target"

    outcome = restore(bucket, target)

    assert outcome.is_complete, outcome
    assert (target / "etc" / "hosts").read_text() == "127.0.0.1 localhost\n"
    assert (target / "big").read_bytes() == DATA
    assert os.readlink(target / "link") == "etc/hosts"
    assert (target / "pipe").is_fifo()
    assert outcome.counters["entries"] >= 5


def test_one_path_of_a_tree_comes_back_alone(tmp_path: Path) -> None:
    bucket = tree_vault(tmp_path / "source")
    target = tmp_path / "target"

    restore(bucket, target, paths=("etc",))

    assert [path.name for path in target.iterdir()] == ["etc"]
    assert (target / "etc" / "hosts").exists()


def test_a_damaged_file_of_a_tree_is_named(tmp_path: Path) -> None:
    bucket = with_damage(tree_vault(tmp_path / "source"))

    outcome = restore(bucket, tmp_path / "target")

    assert not outcome.is_complete
    assert len(outcome.lost) == 1
    assert outcome.lost[0].startswith(("big: ", "etc/hosts: "))


def test_a_directory_with_something_in_it_needs_force(tmp_path: Path) -> None:
    bucket = tree_vault(tmp_path / "source")
    target = tmp_path / "target"
    target.mkdir()
    check_order(RestoreOrder(to=str(target)), confirm=lambda _: False)
    (target / "mine").write_text("mine")

    with pytest.raises(NotConfirmedError):
        check_order(RestoreOrder(to=str(target)), confirm=lambda _: True)
    with pytest.raises(EngineError) as caught:
        restore(bucket, target)
    assert caught.value.code == "target_not_empty"
    assert restore(bucket, target, force=True).is_complete
    assert (target / "mine").read_text() == "mine"


@pytest.mark.parametrize("content", ["disk", "stream", "tree"])
def test_all_kinds_are_listed_and_checked(content: str, tmp_path: Path) -> None:
    bucket = {"disk": disk_vault, "stream": stream_vault, "tree": lambda: tree_vault(tmp_path / "source")}[content]()
    domain = open_domain(bucket, PLACE, RECOVERY_KEY)

    backups = [backup for source in list_domain(bucket, domain).sources for backup in source.backups]

    assert [(backup.content, backup.is_complete) for backup in backups] == [(content, True)]
    assert check_domain(bucket, domain, read_data=True).is_sound
    assert not check_domain(with_damage(bucket), domain, read_data=True).is_sound


@pytest.mark.parametrize(
    ("content", "order"),
    [
        ("disk", {"fill_damaged": True}),
        ("disk", {"paths": ("etc",)}),
        ("disk", {"trust_mtime": True, "resume": True}),
        ("stream", {"paths": ("etc",)}),
        ("stream", {"fill_damaged": True, "resume": True}),
        ("stream", {"delete_extra": True, "resume": True}),
        ("tree", {"delete_extra": True}),
        ("tree", {"trust_mtime": True}),
        ("tree", {"fill_damaged": True}),
        ("tree", {"to": "-"}),
    ],
)
def test_what_a_kind_cannot_do_is_refused_before_anything_is_touched(
    content: str, order: dict[str, Any], tmp_path: Path
) -> None:
    bucket = {"disk": disk_vault, "stream": stream_vault, "tree": lambda: tree_vault(tmp_path / "source")}[content]()
    target = tmp_path / "target"

    with pytest.raises(EngineError) as caught:
        restore(bucket, **{"to": target, **order})

    assert caught.value.code == "bad_option"
    assert not target.exists()


def test_a_longer_file_gets_the_size_of_the_image(tmp_path: Path) -> None:
    target = tmp_path / "image"
    target.write_bytes(bytes(len(DATA) + 12345))

    assert restore(disk_vault(), target, force=True).is_complete
    assert target.read_bytes() == DATA


def test_a_restore_that_was_cut_goes_on(tmp_path: Path) -> None:
    bucket = disk_vault()
    target = tmp_path / "image"
    calls = 0

    def cancel() -> bool:
        nonlocal calls
        calls += 1
        return calls > 30

    with pytest.raises(CanceledError):
        restore(bucket, target, cancel=cancel)
    outcome = restore(bucket, target, resume=True, force=True)

    assert outcome.is_complete
    assert target.read_bytes() == DATA


def test_a_stream_that_was_cut_goes_on_and_gets_its_size(tmp_path: Path) -> None:
    target = tmp_path / "dump"
    target.write_bytes(DATA[:2_000_000] + b"changed" + bytes(3_000_000))

    outcome = restore(stream_vault(), target, resume=True, force=True)

    assert target.read_bytes() == DATA
    assert outcome.counters["same_bytes"] > 1_500_000
    assert sum(outcome.counters[name] for name in ("same_bytes", "written_bytes", "zeroed_bytes")) == len(DATA)


def test_damage_of_a_resumed_stream_leaves_the_target_as_it_is(tmp_path: Path) -> None:
    target = tmp_path / "dump"
    target.write_bytes(b"\xa5" * len(DATA))

    outcome = restore(with_damage(stream_vault()), target, resume=True, force=True)

    expected = bytearray(DATA)
    for offset, length in outcome.damaged:
        expected[offset : offset + length] = b"\xa5" * length
    assert outcome.damaged and target.read_bytes() == expected


def test_a_tree_that_is_there_in_part_is_completed(tmp_path: Path) -> None:
    bucket = tree_vault(tmp_path / "source")
    target = tmp_path / "target"
    restore(bucket, target)
    (target / "etc" / "hosts").unlink()
    (target / "extra").write_text("extra")

    kept = restore(bucket, target, resume=True, force=True)
    assert kept.is_complete and (target / "extra").exists()
    assert (kept.counters["same_files"], kept.counters["written_bytes"]) == (1, 20)

    trusted = restore(bucket, target, resume=True, force=True, trust_mtime=True, delete_extra=True)
    assert (trusted.counters["same_files"], trusted.counters["deleted"]) == (2, 1)
    assert not (target / "extra").exists()


def test_the_damaged_ranges_of_a_file_are_told_to_programs(tmp_path: Path) -> None:
    bucket = with_damage(tree_vault(tmp_path / "source"))

    outcome = restore(bucket, tmp_path / "target")

    [(path, ranges)] = outcome.damaged_files
    shown = outcome_json(outcome, "target")["damaged_files"]
    assert path == "big" and shown == [
        {"path": "big", "ranges": [{"offset": offset, "length": length} for offset, length in ranges]}
    ]


def test_a_target_in_use_is_refused(tmp_path: Path) -> None:

    target = tmp_path / "image"
    target.write_bytes(bytes(len(DATA) + 1))
    with target.open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_SH)
        with pytest.raises(TargetError) as caught:
            restore(disk_vault(), target, force=True)

    assert caught.value.code == "target_busy"
    assert target.stat().st_size == len(DATA) + 1
