"""Replacing a tenant's key: at once for new sessions, step by step for earlier ones, killed anywhere, nothing lost."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from unittest import mock

import pytest

from backups.accounting import recompute
from backups.models import Backup
from common.errors import ConflictError, UnavailableError
from engine.envelope import unwrap_envelope
from engine.recovery import RecoveryKey, answer_challenge, decode_challenge
from tests.factories import make_backup, make_person, make_server
from tests.vaults.key_world import BEGIN, KeyWorld
from tests.vaults.rotating import expected, keys, opens_with_the_active_key_alone, rotate, run_round
from vaults import rotation
from vaults.alarms import raise_alarm
from vaults.custody import (
    CustomerKeyNeededError,
    check_envelope,
    companion_envelopes,
    fingerprint,
    restore_needs_customer_key,
    session_data_keys,
)
from vaults.envelopes import readable_envelopes
from vaults.models import Alarm, Envelope, StoredObject, TenantKey
from vaults.own_objects import NO_SESSION
from vaults.recovery_keys import finish_test, register_customer_key, start_test
from vaults.rotation import (
    RETIRED_KEPT,
    REWRAP_ALARM,
    Rewrapping,
    Round,
    rewrap_everywhere,
    rewrapping_of,
    rotate_managed_key,
    sessions_left,
)

__all__ = ["keys"]

pytestmark = pytest.mark.django_db
Status, Mode = TenantKey.Status, TenantKey.Mode


# --- the change -------------------------------------------------------------------------------------------------------


def test_new_sessions_get_the_new_key_at_once(keys: KeyWorld) -> None:
    old = keys.key

    new = rotate(keys)

    old.refresh_from_db()
    assert (keys.key.pk, old.status, old.changed_at) == (new.pk, Status.RETIRED, keys.clock())
    assert bytes(new.public_key) != bytes(old.public_key)
    assert (new.shown_at, new.tested_at) == (None, None)


def test_a_change_that_is_asked_for_twice_is_made_once(keys: KeyWorld) -> None:
    person, seen = make_person(superadmin=True), keys.key.pk
    rotate_managed_key(keys.tenant, replaced=seen, actor=person, now=keys.clock())

    with pytest.raises(ConflictError) as caught:
        rotate_managed_key(keys.tenant, replaced=seen, actor=person, now=keys.clock())

    assert caught.value.code == "key_replaced"
    assert TenantKey.objects.count() == 2


def test_the_customers_key_is_not_replaced_by_the_service(keys: KeyWorld) -> None:
    """And there is no way back to managed mode: the refusal says why, and changes nothing."""
    to_customer(keys)
    before = list(TenantKey.objects.order_by("pk").values_list("pk", "mode", "status"))

    with pytest.raises(ConflictError, match="There is no way back") as caught:
        rotate(keys)

    assert caught.value.code == "customer_key"
    assert list(TenantKey.objects.order_by("pk").values_list("pk", "mode", "status")) == before


# --- the rounds -------------------------------------------------------------------------------------------------------


def test_earlier_sessions_open_with_the_new_key_after_a_round(keys: KeyWorld) -> None:
    first = keys.back_up()
    keys.back_up(reused=keys.envelopes_of(first))
    rotate(keys)
    assert sessions_left(keys.tenant.pk) == 2

    done = run_round(keys)

    assert (done, sessions_left(keys.tenant.pk)) == (Round(rewrapped=2), 0)
    opens_with_the_active_key_alone(keys)
    assert session_data_keys(keys.domain, list(keys.sessions)) == expected(keys)


def test_how_far_re_wrapping_is(keys: KeyWorld) -> None:
    first = keys.back_up()
    keys.back_up(reused=keys.envelopes_of(first))
    assert rewrapping_of(keys.tenant.pk) is None
    rotate(keys)
    # Sealed to the new key from the start.
    keys.back_up()

    under_way = rewrapping_of(keys.tenant.pk)
    raise_alarm(keys.domain.vault, code=REWRAP_ALARM, message="1 session could not be sealed.", now=keys.clock())
    failing = rewrapping_of(keys.tenant.pk)
    run_round(keys)

    assert under_way is not None and failing is not None
    assert (under_way.total, under_way.left, under_way.done, under_way.percent) == (3, 2, 1, 33)
    assert under_way.since == TenantKey.objects.get(status=Status.RETIRED).changed_at
    # What failed does not get on: no progress is shown of it.
    assert (under_way.has_failed, failing.has_failed, failing.percent) == (False, True, None)
    assert rewrapping_of(keys.tenant.pk) is None


def test_how_far_it_is_costs_little(keys: KeyWorld, django_assert_num_queries: Any) -> None:
    """One statement counts, over envelopes; who needs them is read in so far that somebody does."""
    first = keys.back_up()
    for _ in range(3):
        keys.back_up(reused=keys.envelopes_of(first))
    with django_assert_num_queries(1):
        assert rewrapping_of(keys.tenant.pk) is None
    rotate(keys)

    with django_assert_num_queries(4) as told:
        found = rewrapping_of(keys.tenant.pk)

    assert found is not None and (found.total, found.left) == (4, 4)
    (counting,) = [query["sql"] for query in told.captured_queries if "vaults_objectuse" in query["sql"]]
    assert "EXISTS(SELECT 1" in counting and 'JOIN "vaults_objectuse"' not in counting


def test_without_a_session_there_is_no_percentage() -> None:
    since = BEGIN

    assert Rewrapping(total=0, left=0, closed=0, since=since, has_failed=False).percent is None
    assert Rewrapping(total=2, left=0, closed=2, since=since, has_failed=False).percent is None
    assert Rewrapping(total=4, left=1, closed=1, since=since, has_failed=False).percent == 66


def test_a_session_whose_envelope_is_damaged_does_not_open_and_is_tried_again(keys: KeyWorld) -> None:
    keys.back_up()
    rotate(keys)
    run_round(keys)
    assert rewrapping_of(keys.tenant.pk) is None

    lose(keys, StoredObject.objects.get(session_id=NO_SESSION), "damaged")

    found = rewrapping_of(keys.tenant.pk)
    assert found is not None and (found.total, found.left, found.closed) == (1, 1, 0)


def test_what_is_removed_is_not_waited_for(keys: KeyWorld) -> None:
    manifest = keys.back_up()
    rotate(keys)
    assert rewrapping_of(keys.tenant.pk) is not None

    StoredObject.objects.filter(pk=manifest.pk).update(status=StoredObject.Status.DELETING, condemned_epoch=1)

    assert rewrapping_of(keys.tenant.pk) is None


def test_the_figures_of_backups_are_right_after_every_statement_that_counts(keys: KeyWorld) -> None:
    server = make_server(keys.tenant)
    first = keys.back_up()
    manifests = [first, keys.back_up(reused=keys.envelopes_of(first)), keys.back_up()]
    for number, manifest in enumerate(manifests):
        pending = make_backup(server, status="pending")
        Backup.objects.filter(pk=pending.pk).update(status="ok", manifest=manifest, sequence=number + 1)
    recompute(keys.domain.pk)
    rotate(keys)

    run_round(keys)

    assert recompute(keys.domain.pk) == 0
    made = StoredObject.objects.filter(session_id=NO_SESSION)
    assert made.count() == 3
    total = sum(backup.unique_bytes for backup in Backup.objects.all())
    assert total > sum(manifest.size_bytes for manifest in manifests)


def test_what_the_service_writes_is_in_the_ledger_and_locked(keys: KeyWorld) -> None:
    old = keys.envelopes_of(keys.back_up())[0]
    keys.pass_time(days=3)
    rotate(keys)

    run_round(keys)

    row = StoredObject.objects.get(session_id=NO_SESSION)
    version = keys.store.head(key=f"{keys.vault.bucket}/{row.key}")
    assert (row.kind, row.status, row.version_id) == ("k", StoredObject.Status.STORED, version.version_id)
    assert version.retain_until == row.retain_until >= max(old.retain_until, keys.rule.needed_until(keys.clock()))


def test_a_new_envelope_is_locked_long_enough_from_the_first_moment(keys: KeyWorld) -> None:
    old = keys.envelopes_of(keys.back_up())[0]
    long = keys.clock() + timedelta(days=400)
    keys.store.put_retention(key=f"{keys.vault.bucket}/{old.key}", version_id=old.version_id, retain_until=long)
    StoredObject.objects.filter(pk=old.pk).update(retain_until=long)
    rotate(keys)

    run_round(keys)

    assert StoredObject.objects.get(session_id=NO_SESSION).retain_until == long
    assert "before put_object_retention" not in keys.places


def test_the_ledger_comes_before_the_put(keys: KeyWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    keys.back_up()
    rotate(keys)
    noted: list[str] = []

    def around(place: str) -> None:
        if place == "before put_object":
            noted.append(StoredObject.objects.get(session_id=NO_SESSION).status)

    monkeypatch.setattr(keys, "_around", around)
    run_round(keys)

    assert noted == [StoredObject.Status.GRANTED]


def test_a_second_round_writes_nothing(keys: KeyWorld) -> None:
    keys.back_up()
    rotate(keys)
    run_round(keys)
    keys.places.clear()

    assert run_round(keys) == Round()

    assert keys.places == []


def test_only_tenants_that_replaced_a_key_have_a_round(keys: KeyWorld) -> None:
    keys.back_up()
    rewrap_everywhere(now=keys.clock())
    assert keys.places == []
    rotate(keys)

    rewrap_everywhere(now=keys.clock())

    opens_with_the_active_key_alone(keys)


def test_two_rounds_at_once_do_no_harm(keys: KeyWorld) -> None:
    keys.back_up()
    rotate(keys)
    real, inside = rotation.store_own_object, []

    def meanwhile(*arguments: Any, **options: Any) -> StoredObject:
        if not inside:
            inside.append(True)
            run_round(keys)
        return real(*arguments, **options)

    with mock.patch.object(rotation, "store_own_object", meanwhile):
        run_round(keys)

    opens_with_the_active_key_alone(keys)
    assert sessions_left(keys.tenant.pk) == 0


def test_a_rotation_after_a_rotation(keys: KeyWorld) -> None:
    keys.back_up()
    rotate(keys)
    run_round(keys)
    keys.back_up()
    rotate(keys)

    run_round(keys)

    opens_with_the_active_key_alone(keys)


# --- sessions that were open ------------------------------------------------------------------------------------------


def test_a_session_opened_before_the_change_finishes_on_its_key_and_both_restore(keys: KeyWorld) -> None:
    keys.back_up()
    opened_at, old = keys.clock(), keys.key
    keys.pass_time(hours=1)
    rotate(keys)
    run_round(keys)
    keys.pass_time(hours=20)
    late = keys.new_session()
    data = keys.seal(late, bytes(old.public_key))

    recipient = check_envelope(
        data,
        tenant=str(keys.tenant.pk),
        domain=str(keys.domain.pk),
        session=late.session_id,
        commitment=late.commitment,
        opened_at=opened_at,
    )
    keys.back_up(keys=late, public_key=bytes(old.public_key))

    assert recipient.hex() == fingerprint(old)
    assert session_data_keys(keys.domain, list(keys.sessions)) == expected(keys)
    run_round(keys)
    opens_with_the_active_key_alone(keys)


def test_the_retired_key_goes_when_no_open_session_can_need_it(keys: KeyWorld) -> None:
    keys.back_up()
    rotate(keys)
    assert run_round(keys) == Round(rewrapped=1)
    keys.pass_time(seconds=RETIRED_KEPT.total_seconds() - 1)
    assert run_round(keys).dropped_keys == 0
    keys.pass_time(seconds=2)

    assert run_round(keys).dropped_keys == 1

    assert [key.status for key in TenantKey.objects.all()] == [Status.ACTIVE]
    assert session_data_keys(keys.domain, list(keys.sessions)) == expected(keys)


def test_the_retired_key_stays_while_anything_opens_with_it_alone(keys: KeyWorld) -> None:
    manifest = keys.back_up()
    keys.back_up()
    keys.spoil(keys.envelopes_of(manifest)[0])
    rotate(keys)
    keys.pass_time(days=30)

    done = run_round(keys)

    assert (done.rewrapped, done.failed, done.dropped_keys) == (1, 1, 0)
    assert Alarm.objects.standing().get(vault=keys.vault).code == rotation.REWRAP_ALARM


def lose(world: KeyWorld, row: StoredObject, how: str) -> None:
    """Its bytes rot and the scrub notes it; or it is removed."""
    changes: dict[str, Any] = {"status": how, "condemned_epoch": 1}
    if how == "damaged":
        world.spoil(row)
        changes = {"damage": "wrong_bytes", "damaged_since": world.clock()}
    StoredObject.objects.filter(pk=row.pk).update(**changes)


@pytest.mark.parametrize("how", ["damaged", "deleting", "deleted"])
def test_the_retired_key_stays_when_the_envelope_for_the_new_one_is_lost(keys: KeyWorld, how: str) -> None:
    keys.back_up()
    rotate(keys)
    run_round(keys)
    lose(keys, StoredObject.objects.get(session_id=NO_SESSION), how)
    keys.pass_time(days=30)

    with mock.patch.object(rotation, "store_time", side_effect=UnavailableError("away")):
        assert run_round(keys) == Round()

    assert sessions_left(keys.tenant.pk) == 1
    assert TenantKey.objects.filter(status=Status.RETIRED).count() == 1


def test_a_damaged_envelope_for_the_new_key_gets_another_one_beside_it(keys: KeyWorld) -> None:
    keys.back_up()
    rotate(keys)
    run_round(keys)
    lose(keys, StoredObject.objects.get(session_id=NO_SESSION), "damaged")
    keys.pass_time(days=30)

    assert run_round(keys) == Round(rewrapped=1, dropped_keys=1)

    assert session_data_keys(keys.domain, list(keys.sessions)) == expected(keys)
    assert run_round(keys) == Round()
    assert StoredObject.objects.filter(session_id=NO_SESSION).count() == 2


def test_the_retired_key_stays_when_both_envelopes_are_damaged(keys: KeyWorld) -> None:
    first = keys.envelopes_of(keys.back_up())[0]
    rotate(keys)
    run_round(keys)
    lose(keys, StoredObject.objects.get(session_id=NO_SESSION), "damaged")
    lose(keys, first, "damaged")
    keys.pass_time(days=30)

    assert run_round(keys) == Round(failed=1)

    assert TenantKey.objects.filter(status=Status.RETIRED).count() == 1


def test_the_alarm_goes_with_its_cause(keys: KeyWorld) -> None:
    manifest = keys.back_up()
    row = keys.envelopes_of(manifest)[0]
    place = f"{keys.vault.bucket}/{row.key}"
    whole = list(keys.store._versions[place])
    keys.spoil(row)
    rotate(keys)
    run_round(keys)
    keys.store._versions[place] = whole

    assert run_round(keys).failed == 0

    assert not Alarm.objects.standing().exists()


def test_a_vault_that_is_away_keeps_the_key(keys: KeyWorld) -> None:
    keys.back_up()
    rotate(keys)
    keys.pass_time(days=30)

    with mock.patch.object(rotation, "store_time", side_effect=UnavailableError("away")):
        assert run_round(keys) == Round()

    assert TenantKey.objects.filter(status=Status.RETIRED).count() == 1


# --- manifests that come later ----------------------------------------------------------------------------------------


def test_a_commit_that_needs_an_old_envelope_is_told_of_the_new_one(keys: KeyWorld) -> None:
    manifest = keys.back_up()
    old = keys.envelopes_of(manifest)
    assert companion_envelopes(old) == []
    rotate(keys)
    run_round(keys)

    found = companion_envelopes(old)

    assert [row.envelope.recipient for row in found] == [fingerprint(keys.key)]
    assert companion_envelopes([*old, *found]) == companion_envelopes([]) == []


def test_a_manifest_that_was_not_told_is_found_by_the_next_round(keys: KeyWorld) -> None:
    first = keys.back_up()
    old = keys.envelopes_of(first)
    rotate(keys)
    run_round(keys)
    keys.pass_time(days=20)
    longer = keys.rule.lock_until(keys.clock())
    keys.store.put_retention(key=f"{keys.vault.bucket}/{old[0].key}", version_id=old[0].version_id, retain_until=longer)
    StoredObject.objects.filter(pk=old[0].pk).update(retain_until=longer)
    second = keys.back_up(reused=old)
    assert sessions_left(keys.tenant.pk) == 1

    run_round(keys)

    opens_with_the_active_key_alone(keys)
    assert len(keys.envelopes_of(second)) == 3


def test_what_is_removed_is_not_rewrapped(keys: KeyWorld) -> None:
    manifest = keys.back_up()
    StoredObject.objects.filter(pk=manifest.pk).update(status=StoredObject.Status.DELETING, condemned_epoch=1)
    rotate(keys)
    keys.pass_time(days=30)

    assert run_round(keys) == Round(dropped_keys=1)

    assert Envelope.objects.count() == 1


# --- the customer's own key -------------------------------------------------------------------------------------------


def to_customer(world: KeyWorld) -> RecoveryKey:
    pair, public = world.customer_key()
    person = make_person(superadmin=True)
    key = register_customer_key(world.tenant, public_key=public, actor=person)
    recovery_key = RecoveryKey(pair.private, bytes(32))
    answer = answer_challenge(recovery_key, decode_challenge(start_test(key)))
    finish_test(key, answer=answer, actor=person, now=world.clock())
    return recovery_key


def test_with_the_customers_key_the_service_opens_nothing_and_the_customer_everything(
    keys: KeyWorld,
) -> None:
    manifest = keys.back_up()
    recovery_key = to_customer(keys)
    run_round(keys)
    assert not restore_needs_customer_key(manifest)
    keys.pass_time(seconds=RETIRED_KEPT.total_seconds() + 1)

    assert run_round(keys).dropped_keys == 1

    assert restore_needs_customer_key(manifest)
    assert not TenantKey.objects.filter(wrapped_private_key__isnull=False).exists()
    with pytest.raises(CustomerKeyNeededError):
        session_data_keys(keys.domain, list(keys.sessions))
    (envelope,) = readable_envelopes(keys.domain, keys.sessions, recipients=[fingerprint(keys.key)]).popitem()[1]
    data = keys.store.head(key=f"{keys.vault.bucket}/{envelope.stored_object.key}").data
    opened = unwrap_envelope(
        data,
        tenant_private_key=recovery_key.tenant_private_key,
        tenant=str(keys.tenant.pk),
        domain=str(keys.domain.pk),
    )
    assert opened.session.data_key == expected(keys)[envelope.writer_session]


def test_from_one_key_of_the_customer_to_the_next_the_service_rewraps_nothing(keys: KeyWorld) -> None:
    to_customer(keys)
    keys.back_up()
    to_customer(keys)

    done = run_round(keys)

    assert done == Round()
    assert sessions_left(keys.tenant.pk) == 1
    found = rewrapping_of(keys.tenant.pk)
    assert found is not None and (found.left, found.closed, found.percent) == (0, 1, None)
    assert TenantKey.objects.filter(mode=Mode.CUSTOMER, status=Status.RETIRED).count() == 1
