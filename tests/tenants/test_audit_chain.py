"""The chain of the audit: sealed in order, refused to be changed, and each kind of change by force is found."""

from __future__ import annotations

import threading
from datetime import UTC, datetime
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import DatabaseError, connection, connections, transaction

from tenants import audit_guard
from tenants.audit import cleaned, record
from tenants.audit_chain import hash_of, seal_pending, verify
from tenants.models import AuditEvent, AuditHead
from tenants.models.audit import AppendOnlyError
from tests.factories import make_person, make_server, make_tenant


def make_chain(count: int = 5) -> list[AuditEvent]:
    for number in range(count):
        record(action="test.done", after={"number": number})
    seal_pending()
    return list(AuditEvent.objects.order_by("sequence"))


def by_force(statement: str, *arguments: Any) -> None:
    """What somebody does who may alter tables."""
    with connection.cursor() as cursor:
        for drop in audit_guard.drop_statements(connection.vendor):
            cursor.execute(drop)
        cursor.execute(statement, list(arguments))


def key(event: AuditEvent) -> str:
    return event.pk.hex if connection.vendor == "sqlite" else str(event.pk)


def test_rows_are_numbered_and_hold_the_hash_before_them(db: None) -> None:
    rows = make_chain(4)

    assert [row.sequence for row in rows] == [1, 2, 3, 4]
    assert [row.previous_hash for row in rows] == ["0" * 64, *(row.hash for row in rows[:3])]
    assert len({row.hash for row in rows}) == 4
    assert verify().broken is None and verify().count == 4


def test_sealing_twice_changes_nothing(db: None) -> None:
    before = [row.hash for row in make_chain(3)]

    assert seal_pending() == 0
    assert [row.hash for row in AuditEvent.objects.order_by("sequence")] == before


def test_what_is_rolled_back_was_not_done(db: None) -> None:
    with pytest.raises(ZeroDivisionError), transaction.atomic():
        record(action="test.done")
        _ = 1 / 0

    assert not AuditEvent.objects.exists()


def test_the_model_refuses_change_and_removal(db: None) -> None:
    [event] = make_chain(1)

    for attempt in (
        event.save,
        event.delete,
        AuditEvent.objects.all().delete,
        lambda: AuditEvent.objects.update(action="other"),
        lambda: AuditEvent.objects.bulk_update([event], ["action"]),
    ):
        with pytest.raises(AppendOnlyError):
            attempt()


@pytest.mark.case("AZ-24")
@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM tenants_auditevent",
        "UPDATE tenants_auditevent SET actor_name = 'nobody'",
        "UPDATE tenants_auditevent SET at = '2020-01-01'",
        "UPDATE tenants_auditevent SET hash = 'x'",
        "UPDATE tenants_auditevent SET sequence = 77",
        "UPDATE tenants_auditevent SET sequence = NULL, hash = ''",
    ],
)
def test_the_database_refuses_change_and_removal(db: None, statement: str) -> None:
    make_chain(1)

    with pytest.raises(DatabaseError, match="never changed"), transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(statement)


def test_the_database_refuses_to_change_a_row_that_is_not_sealed_yet(db: None) -> None:
    record(action="test.done")

    with pytest.raises(DatabaseError, match="never changed"), transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("UPDATE tenants_auditevent SET action = 'other'")


def test_every_column_is_guarded_or_part_of_the_seal() -> None:
    columns = {field.column for field in AuditEvent._meta.concrete_fields}

    assert columns == set(f"{audit_guard.CONTENT_COLUMNS}, {audit_guard.SEAL_COLUMNS}".split(", "))


def test_the_triggers_are_there_after_all_migrations(db: None) -> None:
    assert audit_guard.missing(connection) == []


@pytest.mark.case("AZ-24")
@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("actor_name", "somebody else"),
        ("action", "test.other"),
        ("outcome", "refused"),
        ("after", '{"number": 99}'),
        ("at", datetime(2020, 1, 1, tzinfo=UTC)),
        ("address", "203.0.113.9"),
        ("tenant_name", "x"),
        ("hash", "f" * 64),
    ],
)
def test_a_row_that_was_changed_by_force_is_found(db: None, column: str, value: Any) -> None:
    victim = make_chain()[2]

    by_force(f'UPDATE tenants_auditevent SET "{column}" = %s WHERE sequence = 3', value)

    found = verify().broken
    assert found is not None and found.sequence == victim.sequence


@pytest.mark.case("AZ-24")
def test_a_row_that_was_taken_out_is_found(db: None) -> None:
    make_chain()

    by_force("DELETE FROM tenants_auditevent WHERE sequence = 2")

    found = verify().broken
    assert found is not None and (found.sequence, found.reason) == (2, "the record is missing")


def test_a_row_that_was_put_in_is_found(db: None) -> None:
    make_chain()
    extra = record(action="test.forged")

    by_force(
        "UPDATE tenants_auditevent SET sequence = 6, previous_hash = %s, hash = %s WHERE id = %s",
        "a" * 64,
        "b" * 64,
        key(extra),
    )

    found = verify().broken
    assert found is not None and found.sequence == 6


def test_a_row_in_place_of_another_with_a_hash_that_fits_it_is_found(db: None) -> None:
    rows = make_chain()
    forged = record(action="test.forged")
    own = hash_of(forged, sequence=3, previous_hash=rows[1].hash)

    by_force("DELETE FROM tenants_auditevent WHERE sequence = 3")
    by_force(
        "UPDATE tenants_auditevent SET sequence = 3, previous_hash = %s, hash = %s WHERE id = %s",
        rows[1].hash,
        own,
        key(forged),
    )

    found = verify().broken
    assert found is not None and found.sequence == 4


def test_two_rows_that_changed_places_are_found(db: None) -> None:
    make_chain()

    by_force("UPDATE tenants_auditevent SET sequence = 99 WHERE sequence = 2")
    by_force("UPDATE tenants_auditevent SET sequence = 2 WHERE sequence = 3")
    by_force("UPDATE tenants_auditevent SET sequence = 3 WHERE sequence = 99")

    found = verify().broken
    assert found is not None and found.sequence == 2


def test_a_tail_that_was_cut_off_together_with_the_head_is_found_by_a_published_head(db: None) -> None:
    rows = make_chain()
    published = (5, rows[4].hash)
    by_force("DELETE FROM tenants_auditevent WHERE sequence > 3")
    AuditHead.objects.update(sequence=3, hash=rows[2].hash)

    assert verify().broken is None
    found = verify(heads=[published]).broken
    assert found is not None and found.sequence == 4


@pytest.mark.case("AZ-24")
def test_a_chain_that_was_made_anew_is_found_by_a_published_head(db: None) -> None:
    published = (5, make_chain()[4].hash)
    by_force("UPDATE tenants_auditevent SET action = 'other', sequence = NULL, hash = '', previous_hash = ''")
    AuditHead.objects.update(sequence=0, hash="")
    seal_pending()

    assert verify().broken is None
    found = verify(heads=[published]).broken
    assert found is not None and found.sequence == 5


def test_a_part_of_the_chain_can_be_looked_at(db: None) -> None:
    make_chain()
    by_force("UPDATE tenants_auditevent SET action = 'other' WHERE sequence = 2")

    assert verify(first=3).broken is None and verify(first=3).count == 3
    assert verify(last=1).broken is None
    assert verify(first=2, last=4).broken is not None


def test_the_command_tells_the_first_broken_number(db: None, capsys: pytest.CaptureFixture[str]) -> None:
    make_chain()
    call_command("verify_audit")
    assert "5 records" in capsys.readouterr().out

    by_force("UPDATE tenants_auditevent SET action = 'other' WHERE sequence = 4")
    audit_guard.install(connection)

    with pytest.raises(CommandError, match="number 4"):
        call_command("verify_audit")


def test_the_command_tells_of_missing_triggers(db: None) -> None:
    make_chain(1)
    with connection.cursor() as cursor:
        for statement in audit_guard.drop_statements(connection.vendor):
            cursor.execute(statement)

    with pytest.raises(CommandError, match="audit_no_delete"):
        call_command("verify_audit")


def test_the_command_compares_with_a_head_that_somebody_kept(db: None) -> None:
    rows = make_chain()

    call_command("verify_audit", head=[f"5:{rows[4].hash}"])
    with pytest.raises(CommandError, match="number 5"):
        call_command("verify_audit", head=[f"5:{'c' * 64}"])
    with pytest.raises(CommandError, match="number 6"):
        call_command("verify_audit", head=[f"9:{'c' * 64}"])


@pytest.mark.django_db(transaction=True)
def test_many_writers_at_once_make_one_line() -> None:
    writers, each = 6, 8
    failures: list[BaseException] = []

    def write(name: int) -> None:
        try:
            for number in range(each):
                with transaction.atomic():
                    record(action="test.done", after={"writer": name, "number": number})
        except BaseException as error:
            failures.append(error)
        finally:
            connections.close_all()

    threads = [threading.Thread(target=write, args=(name,)) for name in range(writers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seal_pending()

    assert not failures
    assert list(AuditEvent.objects.order_by("sequence").values_list("sequence", flat=True)) == list(
        range(1, writers * each + 1)
    )
    assert verify().broken is None


@pytest.mark.django_db(transaction=True)
def test_a_record_is_sealed_right_after_its_transaction() -> None:
    with transaction.atomic():
        event = record(action="test.done")
        assert AuditEvent.objects.get(pk=event.pk).sequence is None

    assert AuditEvent.objects.get(pk=event.pk).sequence == 1


def test_values_are_kept_so_that_both_databases_give_them_back(db: None) -> None:
    given = {
        "when": datetime(2026, 1, 2, tzinfo=UTC),
        "large": 2**70,
        "half": 0.5,
        "nul": "a\0b",
        "lone": "\ud800",
        "long": "x" * 5000,
        "bytes": b"abc",
        "list": [1, None, True, {"x": {"y": (1, 2)}}],
    }

    record(action="test.done", after=given)
    seal_pending()

    assert AuditEvent.objects.get().after == cleaned(given)
    assert verify().broken is None


@pytest.mark.parametrize(
    "name", ["password", "new_password", "secret_hash", "private_key", "wrapped_private_key", "api_key"]
)
def test_a_field_named_like_a_secret_is_hidden(name: str) -> None:
    assert cleaned({"x": {name: "hunter2hunter2"}}) == {"x": {name: "[hidden]"}}


def test_the_tenant_is_found_by_the_path_of_the_model(db: None) -> None:
    server = make_server()
    disk = server.disks.get()

    assert record(action="x", subject=disk).tenant_id == server.tenant_id
    assert record(action="x", subject=server.tenant).tenant_name == server.tenant.name
    assert record(action="x", subject=server.node).tenant_id is None
    assert record(action="x", subject=make_person(), tenant=server.tenant).tenant_id == server.tenant_id


def test_records_outlive_what_they_tell_of(db: None) -> None:
    tenant, person = make_tenant("Gone"), make_person("gone")
    event = record(action="test.done", subject=tenant, actor=person)
    tenant.company.delete()
    tenant.delete()
    person.delete()
    seal_pending()

    kept = AuditEvent.objects.get(pk=event.pk)
    assert (kept.subject_name, kept.actor_name) == (event.subject_name, "gone")
    assert verify().broken is None
