"""A commit request proves nothing: each way in which it can be wrong ends the job, with words, and makes no backup."""

from __future__ import annotations

import base64
from collections.abc import Callable
from datetime import timedelta

import msgspec
import pytest

from agents.protocol import CommitRequest, ObjectMessage
from backups import committer
from backups.models import Backup, Job
from backups.states import JobState
from engine.store.base import ObjectKind
from engine.store.memory import Fault
from tests.removal.test_removal import _back_up
from tests.removal.world import OpenSession, World, running
from vaults import keeper
from vaults.keeper import UnverifiedObjectError, _compare
from vaults.models import StoredObject
from vaults.storage import SeenObject, StorageRefusedError

pytestmark = pytest.mark.django_db


def _writer(world: World) -> OpenSession:
    writer = world.start_session()
    assert writer is not None
    world.put_pack(writer)
    return writer


def _is_refused(job: Job, words: str) -> None:
    assert (job.state, job.code) == (JobState.FAILED, "verification_failed")
    assert words in job.message
    assert not Backup.objects.filter(pk=job.backup_id, status="ok").exists()


REQUESTS: dict[str, tuple[Callable[[CommitRequest], CommitRequest], str]] = {
    "a pack for the manifest": (
        lambda request: msgspec.structs.replace(request, manifest=_other(request)),
        "not among",
    ),
    "a pack left out": (
        lambda request: msgspec.structs.replace(
            request, new_objects=[message for message in request.new_objects if "/p/" not in message.key]
        ),
        "did not name",
    ),
    "an object that was never granted": (
        lambda request: msgspec.structs.replace(
            request,
            new_objects=[*request.new_objects, ObjectMessage("t/a/d/b/p/" + "0" * 64, "0" * 64, 1, "v1")],
        ),
        "not of this session",
    ),
    "a version that is not there": (
        lambda request: msgspec.structs.replace(
            request,
            new_objects=[msgspec.structs.replace(message, version_id="v99999999") for message in request.new_objects],
        ),
        "not in the vault",
    ),
}


def _other(request: CommitRequest) -> ObjectMessage:
    return msgspec.structs.replace(request.manifest, key=request.manifest.key + "-no")


@pytest.mark.parametrize("name", REQUESTS)
def test_a_wrong_request_ends_the_job(name: str) -> None:
    change, words = REQUESTS[name]
    with running() as (world, _clock):
        writer = _writer(world)
        _is_refused(world.commit(writer, change=change), words)


def test_more_than_the_manifest_needs() -> None:
    with running() as (world, _clock):
        writer = _writer(world)
        extra = world._put(writer, ObjectKind.PACK, b"one pack more")
        message = ObjectMessage(extra.key, extra.sha256, extra.size_bytes, extra.version_id)
        job = world.commit(
            writer, change=lambda request: msgspec.structs.replace(request, new_objects=[*request.new_objects, message])
        )
        _is_refused(job, "does not need")


def test_another_version_than_the_manifest_names() -> None:
    """Junk of the same bytes laid over a pack: the manifest's own version counts."""
    with running() as (world, _clock):
        writer = _writer(world)
        pack = writer.packs[0]
        row = StoredObject.objects.get(key=pack.key)
        again = world.store.put_object(
            key=f"{world.vault.bucket}/{pack.key}",
            data=world.store._versions[f"{world.vault.bucket}/{pack.key}"][0].data,
            retain_until=row.retain_until,
        )
        job = world.commit(
            writer,
            change=lambda request: msgspec.structs.replace(
                request,
                new_objects=[
                    msgspec.structs.replace(message, version_id=again.version_id) if "/p/" in message.key else message
                    for message in request.new_objects
                ],
            ),
        )
        _is_refused(job, "another version")


def test_a_manifest_of_another_session() -> None:
    with running() as (world, _clock):
        _back_up(world)
        writer = _writer(world)
        writer.session.sequence = 77
        _is_refused(world.commit(writer), "another tenant, domain, disk or session")


def test_too_many_relocations(monkeypatch: pytest.MonkeyPatch) -> None:
    with running() as (world, _clock):
        monkeypatch.setattr(committer, "MOST_RELOCATIONS", 0)
        writer = _writer(world)
        extra = world._put(writer, ObjectKind.RELOCATION, b"a relocation")
        message = ObjectMessage(extra.key, extra.sha256, extra.size_bytes, extra.version_id)
        job = world.commit(
            writer, change=lambda request: msgspec.structs.replace(request, new_objects=[*request.new_objects, message])
        )
        _is_refused(job, "at most 0 relocation")


def test_a_manifest_that_changed_after_it_was_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    with running() as (world, _clock):
        writer = _writer(world)
        monkeypatch.setattr(committer, "read_object", lambda *_, **__: b"something else")
        _is_refused(world.commit(writer), "not what its name says")


# --- one object beside its row ----------------------------------------------------------------------------------------


def _seen(row: StoredObject, **changes: object) -> SeenObject:
    values = {
        "version_id": "v1",
        "size_bytes": row.size_bytes,
        "etag": base64.b64decode(row.md5_base64).hex(),
        "sha256_base64": base64.b64encode(bytes.fromhex(row.sha256)).decode(),
        "lock_mode": "COMPLIANCE",
        "retain_until": row.retain_until,
    }
    return SeenObject(**{**values, **changes})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"size_bytes": 1}, "bytes in the vault"),
        ({"etag": "0" * 32}, "other content"),
        ({"sha256_base64": "AAAA"}, "another SHA-256"),
        ({"lock_mode": None}, "not locked"),
        ({"lock_mode": "GOVERNANCE"}, "not locked"),
        ({"retain_until": None}, "not locked"),
        ({"version_id": ""}, "no version id"),
    ],
)
def test_an_object_that_is_not_as_granted(changes: dict[str, object], words: str) -> None:
    with running() as (world, _clock):
        row = world._put(_writer(world), ObjectKind.PACK, b"content")

        _compare(row, _seen(row))
        _compare(row, _seen(row, sha256_base64=None))
        with pytest.raises(UnverifiedObjectError, match=words):
            _compare(row, _seen(row, **changes))
        with pytest.raises(UnverifiedObjectError, match="not locked"):
            _compare(row, _seen(row, retain_until=row.retain_until - timedelta(seconds=2)))


def test_a_lock_that_the_store_does_not_lengthen(monkeypatch: pytest.MonkeyPatch) -> None:
    with running() as (world, _clock):
        _back_up(world)
        row = StoredObject.objects.select_related("vault__endpoint").filter(kind="p").first()
        until = row.retain_until + timedelta(days=30)

        monkeypatch.setattr(keeper, "extend_lock", lambda *_, **__: None)
        with pytest.raises(UnverifiedObjectError, match="did not lengthen"):
            keeper._extend(row.vault, row, until)

        def refuse(*_: object, **__: object) -> None:
            raise StorageRefusedError("no", extra={"store_code": "AccessDenied"})

        monkeypatch.setattr(keeper, "extend_lock", refuse)
        with pytest.raises(StorageRefusedError):
            keeper._extend(row.vault, row, until)
        # A lock that is longer already is what was wanted, though the store refuses to make it "shorter".
        assert keeper._extend(row.vault, row, row.retain_until).retain_until == row.retain_until


def test_a_store_that_refuses_to_show_an_object_fails_nothing() -> None:
    with running() as (world, _clock):
        writer = _writer(world)
        store = world.store
        # After the manifest's PUT: the first look is refused by the store, and the commit waits.
        store.faults = {store.operation_count + 1: Fault.REFUSE}
        job = world.commit(writer)

        assert job.state == JobState.RUNNING
        committer.commit_session(session_id=str(writer.session.pk))
        job.refresh_from_db()
        assert job.state == JobState.OK
