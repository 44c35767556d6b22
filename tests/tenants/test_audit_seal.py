"""What the seal of an audit record covers, a tail that was cut off, and two that continue the chain at once."""

from __future__ import annotations

import threading
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from django.db import connection, connections, transaction
from hypothesis import given
from hypothesis import strategies as st

from tenants.audit import record
from tenants.audit_chain import hash_of, seal_pending, verify
from tenants.models import AuditEvent, AuditHead
from tenants.models.audit import CONTENT
from tests.postgres.waiting import wait_until_somebody_waits
from tests.tenants.test_audit_chain import by_force, make_chain

SEAL = {"sequence", "previous_hash", "hash"}
EVENT: dict[str, Any] = {
    "id": UUID(int=1),
    "at": datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC),
    "tenant_id": UUID(int=2),
    "before": {"a": 1},
    "after": None,
}


def _event(**changes: Any) -> AuditEvent:
    values = {name: EVENT.get(name, name) for name in CONTENT} | changes
    event = AuditEvent()
    for name, value in values.items():
        setattr(event, name, value)
    return event


def _hash(event: AuditEvent, *, sequence: int = 7, previous_hash: str = "a" * 64) -> str:
    return hash_of(event, sequence=sequence, previous_hash=previous_hash)


def test_every_column_but_the_seal_itself_is_under_it() -> None:
    assert {field.attname for field in AuditEvent._meta.concrete_fields} == set(CONTENT) | SEAL


@pytest.mark.case("AZ-24")
@pytest.mark.parametrize("name", CONTENT)
def test_another_value_in_any_field_is_another_hash(name: str) -> None:
    now = EVENT.get(name, name)
    other: Any = {"x": 1} if name in {"before", "after"} else UUID(int=9) if isinstance(now, UUID) else f"{now}x"
    if name == "at":
        other = datetime(2026, 1, 2, 3, 4, 5, 7, tzinfo=UTC)

    assert _hash(_event(**{name: other})) != _hash(_event())


def test_the_number_and_the_hash_before_are_under_it_too() -> None:
    assert len({_hash(_event()), _hash(_event(), sequence=8), _hash(_event(), previous_hash="b" * 64)}) == 3


@given(st.sampled_from(["actor_id", "actor_name", "address", "token_id"]), st.text(max_size=5), st.text(max_size=5))
def test_no_text_moves_from_one_field_into_the_next(name: str, first: str, second: str) -> None:
    """As it could if fields were only written one behind the other."""
    following = CONTENT[CONTENT.index(name) + 1]
    whole = _event(**{name: first + second, following: ""})
    parted = _event(**{name: first, following: second})

    assert (_hash(whole) == _hash(parted)) is (second == "")


@pytest.mark.case("AZ-24")
def test_a_tail_that_was_cut_off_is_found_by_the_head(db: None) -> None:
    make_chain()

    by_force("DELETE FROM tenants_auditevent WHERE sequence > 3")

    found = verify().broken
    assert found is not None and (found.sequence, found.reason) == (4, "the record is missing")


@pytest.mark.case("AZ-24")
@pytest.mark.parametrize("hash_too", [True, False])
def test_a_head_that_was_set_back_alone_is_found(db: None, hash_too: bool) -> None:
    rows = make_chain()

    AuditHead.objects.update(sequence=3, **({"hash": rows[2].hash} if hash_too else {}))

    assert verify().broken is not None


@pytest.mark.case("AZ-24")
def test_all_of_it_gone_is_found_by_a_published_head(db: None) -> None:
    rows = make_chain()
    by_force("DELETE FROM tenants_auditevent")
    AuditHead.objects.all().delete()

    found = verify(heads=[(5, rows[4].hash)]).broken
    assert found is not None and found.sequence == 1


@pytest.mark.django_db(transaction=True)
def test_who_continues_the_chain_waits_for_who_does_so_already(monkeypatch: pytest.MonkeyPatch) -> None:
    """On PostgreSQL. Without the lock both take the same number, and one of two writes is lost for the log."""
    if connection.vendor != "postgresql":
        pytest.skip("SQLite has one writer at a time; test_on_postgresql.py runs this there")
    monkeypatch.setattr("tenants.audit.seal_quietly", lambda: None)
    make_chain(1)
    first, second = record(action="test.first"), record(action="test.second")
    failed: list[BaseException] = []

    def other() -> None:
        try:
            seal_pending()
        except BaseException as error:
            failed.append(error)
        finally:
            connections.close_all()

    thread = threading.Thread(target=other)
    with transaction.atomic():
        head = AuditHead.objects.select_for_update().get(pk=1)
        # Not in the order in which the other one will take them.
        own = hash_of(second, sequence=2, previous_hash=head.hash)
        AuditEvent.objects.seal(pk=second.pk, sequence=2, previous_hash=head.hash, own_hash=own)
        AuditHead.objects.filter(pk=1).update(sequence=2, hash=own)
        thread.start()
        wait_until_somebody_waits()
    thread.join(30)

    assert failed == [] and verify().broken is None
    assert AuditEvent.objects.get(pk=first.pk).sequence == AuditHead.objects.get().sequence == 3
