"""A manifest that can never be taken in: a person may say so, then removal goes on and keeps what it names."""

from __future__ import annotations

from datetime import timedelta
from io import StringIO
from unittest import mock

import pytest
from django.core.management import CommandError, call_command
from hypothesis import given
from hypothesis import strategies as st

from agents.models import WriterKey
from backups.models import Backup
from backups.removal.known_bad import KEPT_AT_LEAST, acknowledge_bad_object
from backups.states import JobState
from common.errors import BackupsiteError, ConflictError, InvalidInputError, NotAllowedError, NotFoundError
from engine.errors import FormatError
from engine.peeking import named_objects
from tenants.models import AuditEvent, Person
from tests.removal.forging import forge, forget, put, put_relocation, relocation_key
from tests.removal.world import World, advance, now, running
from vaults.models import Alarm, KnownBadObject, StoredObject, Vault
from vaults.storage import StorageUnreachableError

pytestmark = pytest.mark.django_db
DAY = timedelta(days=1)


def _back_up(world: World, *, keep: int | None = None) -> Backup:
    writer = world.start_session()
    if keep is not None:
        writer.reused = writer.reused[:keep]
    world.put_pack(writer)
    job = world.commit(writer)
    assert job.state == JobState.OK, job.message
    return job.backup


def _root() -> Person:
    return Person.objects.create(username="root", is_superuser=True)


def _months(world: World, clock, days: int) -> None:
    for _ in range(days // 3):
        advance(clock, world, DAY * 3)
        world.reconcile()
        world.run_removal()
        world.reap()


def test_removal_goes_on_and_what_the_object_names_stays_for_its_time() -> None:
    with running() as (world, clock):
        good = _back_up(world)
        body = world.body_of(good)
        second = _back_up(world, keep=0)
        lost = world.body_of(second)
        names = {ref.key for ref in lost.needed_refs()}
        manifest = second.manifest.key
        forget(second)
        # Signed by the right writer, and of a source that cannot be: it can be decoded and never be taken in.
        bad = forge(world, lost, sequence=body.sequence + 9, source_id="no-uuid")
        world.store._versions.pop(f"{world.vault.bucket}/{manifest}")
        for _ in range(2):
            world.reconcile()
        assert Vault.objects.get().removal_stopped

        found = acknowledge_bad_object(vault=world.vault, key=bad, reason="an old test", actor=_root())

        assert {row.key for row in found.needs.all()} == names
        assert found.kept_until >= now() + KEPT_AT_LEAST
        told = AuditEvent.objects.get(action="vault.acknowledge_bad_object")
        assert (told.actor_name, told.after["key"], told.after["reason"]) == ("root", bad, "an old test")
        world.reconcile()
        assert not Vault.objects.get().removal_stopped
        assert bad in Alarm.objects.standing().get(code="known_bad_objects").message
        assert not Alarm.objects.standing().filter(code="unknown_objects").exists()
        _months(world, clock, 84)
        assert world.vault.removal_runs.filter(outcome="ok").exists()
        kept = {f"{world.vault.bucket}/{key}" for key in (*names, bad)}
        assert kept <= world.keys_in_store()
        _months(world, clock, 60)
        kept -= {f"{world.vault.bucket}/{ref.key}" for ref in world.body_of(good).needed_refs()}
        assert len(kept) == 3
        assert not kept & world.keys_in_store()
        world.check()
        assert world.keys_in_store() == world.keys_needed()


def test_what_can_be_taken_in_later_is_although_it_was_acknowledged() -> None:
    with running() as (world, _clock):
        _back_up(world)
        second = _back_up(world, keep=0)
        manifest = second.manifest.key
        forget(second)
        key = WriterKey.objects.get()
        WriterKey.objects.all().delete()
        world.reconcile()
        acknowledge_bad_object(vault=world.vault, key=manifest, reason="its writer is gone", actor=_root())
        world.reconcile()
        assert not Backup.objects.filter(manifest__key=manifest).exists()

        key.save(force_insert=True)
        Vault.objects.update(reconciled_at=None)
        world.reconcile()

        assert Backup.objects.filter(manifest__key=manifest).exists()
        assert not Alarm.objects.standing().filter(code="known_bad_objects").exists()


def test_the_other_unknown_objects_still_stop_removal() -> None:
    with running() as (world, _clock):
        body = world.body_of(_back_up(world))
        one, two = (forge(world, body, sequence=number, source_id="x") for number in (40, 41))
        world.reconcile()

        acknowledge_bad_object(vault=world.vault, key=one, reason="known", actor=_root())
        world.reconcile()

        assert Vault.objects.get().removal_stopped
        told = Alarm.objects.standing().get(code="unknown_objects").message
        assert two in told and one not in told


@pytest.mark.parametrize("kind", ["no domain", "unreadable relocation", "relocation to nowhere", "rubbish", "gone"])
def test_every_kind_of_object_that_is_refused_can_be_acknowledged(kind: str) -> None:
    with running() as (world, clock):
        backup = _back_up(world)
        body = world.body_of(backup)
        pack = StoredObject.objects.filter(kind="p").first()
        if kind == "no domain":
            key = put(world, f"t/{world.vault.tenant_id}/d/{'0' * 8}/p/{'a' * 64}", b"x")
        elif kind == "unreadable relocation":
            key = put(world, relocation_key(world, "ab" * 32), b"no relocation")
        elif kind == "relocation to nowhere":
            key = put_relocation(world, old=pack, like=body, new_pack=b"\7" * 32)
        elif kind == "rubbish":
            key = put(world, f"t/{body.tenant}/d/{body.domain}/m/{body.source_id}/{7:020d}-{'b' * 64}", b"rubbish")
        else:
            key = forge(world, body, sequence=40, source_id="x")
        world.reconcile()
        if kind == "gone":
            world.store._versions.pop(f"{world.vault.bucket}/{key}")
        assert Vault.objects.get().removal_stopped

        found = acknowledge_bad_object(vault=world.vault, key=key, reason="looked at", actor=_root())
        world.reconcile()

        assert found.refusal and not Vault.objects.get().removal_stopped
        assert (pack in found.needs.all()) == (kind == "relocation to nowhere")
        _months(world, clock, 30)
        assert world.vault.removal_runs.filter(outcome="ok").exists()
        world.check()


def test_nobody_says_so_of_what_is_good_or_not_there_or_without_the_right_or_a_reason() -> None:
    with running() as (world, _clock):
        backup = _back_up(world)
        world.reconcile()
        root, other = _root(), Person.objects.create(username="other")
        bad = forge(world, world.body_of(backup), sequence=40, source_id="x")
        good = backup.manifest.key
        pack = StoredObject.objects.filter(kind="p").first()
        Vault.objects.update(reconciled_at=None)
        world.reconcile()

        for key, reason, actor, error in (
            (bad, "x", other, NotAllowedError),
            (bad, " ", root, InvalidInputError),
            (bad, "x" * 501, root, InvalidInputError),
            ("t/nothing", "x", root, NotFoundError),
            ("elsewhere", "x", root, NotFoundError),
            (good, "x", root, ConflictError),
            (pack.key, "x", root, ConflictError),
        ):
            with pytest.raises(error):
                acknowledge_bad_object(vault=world.vault, key=key, reason=reason, actor=actor)
        StoredObject.objects.filter(key=bad).update(status="deleted")
        with pytest.raises(ConflictError, match="deleted"):
            acknowledge_bad_object(vault=world.vault, key=bad, reason="x", actor=root)
        assert not KnownBadObject.objects.exists()


def test_trouble_of_the_store_is_no_reason_to_call_an_object_bad() -> None:
    with running() as (world, _clock):
        bad = forge(world, world.body_of(_back_up(world)), sequence=40, source_id="x")
        world.reconcile()
        root = _root()

        for place in ("adoption", "known_bad"):
            silent = mock.patch(f"backups.removal.{place}.read_object", side_effect=StorageUnreachableError("silent"))
            with silent, pytest.raises(StorageUnreachableError):
                acknowledge_bad_object(vault=world.vault, key=bad, reason="x", actor=root)

        assert not KnownBadObject.objects.exists()
        first = acknowledge_bad_object(vault=world.vault, key=bad, reason="x", actor=root)
        assert acknowledge_bad_object(vault=world.vault, key=bad, reason="y", actor=root) == first


def test_the_command_says_it_and_lists_it() -> None:
    with running() as (world, _clock):
        bad = forge(world, world.body_of(_back_up(world)), sequence=40, source_id="x")
        world.reconcile()
        _root()
        out = StringIO()

        with pytest.raises(CommandError, match="no vault"):
            call_command("known_bad_object", "nowhere")
        with pytest.raises(CommandError, match="no person"):
            call_command("known_bad_object", world.vault.name, bad, reason="x")
        with pytest.raises(CommandError, match="no object"):
            call_command("known_bad_object", world.vault.name, "t/none", reason="x", actor="root")
        call_command("known_bad_object", world.vault.name, bad, reason="a test", actor="root", stdout=out)
        call_command("known_bad_object", world.vault.name, stdout=out)

        assert out.getvalue().count(bad) >= 2 and "a test" in out.getvalue() and "root" in out.getvalue()


@given(st.binary(max_size=300), st.booleans())
def test_whatever_is_named_a_manifest_is_decoded_or_refused(data: bytes, with_header: bool) -> None:
    head = b"\x89BKS\r\nm\x01" if with_header else b""
    try:
        found = list(named_objects(head + data))
    except (FormatError, BackupsiteError):
        return
    assert all(len(sha256) == 32 for _, sha256 in found)
