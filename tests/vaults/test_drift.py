"""Settings of a bucket that somebody changes outside of the service."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backupsite.stack.weed import EmbeddedWeed
from common.errors import ConflictError
from tests.factories import make_person
from tests.stack.conftest import s3_client
from vaults.acceptance import accept_settings, digest_of
from vaults.drift import ALARM, check_drift, check_drift_everywhere, differences, note_settings, read_settings
from vaults.models import Alarm, Vault
from vaults.provisioner import prepare_vault

NOW = datetime(2026, 11, 21, 3, tzinfo=UTC)
OPEN_POLICY = {
    "Version": "2012-10-17",
    "Statement": [{"Effect": "Allow", "Principal": "*", "Action": "s3:GetObject", "Resource": "arn:aws:s3:::*/*"}],
}
EXPIRE = {"Rules": [{"ID": "x", "Status": "Enabled", "Filter": {"Prefix": ""}, "Expiration": {"Days": 1}}]}
SHORTER = {
    "ObjectLockEnabled": "Enabled",
    "Rule": {"DefaultRetention": {"Mode": "GOVERNANCE", "Days": 1}},
}


@pytest.fixture
def ready(vault: Vault) -> Vault:
    prepare_vault(vault_id=str(vault.pk), probe=lambda vault, report: None)
    vault.refresh_from_db()
    assert vault.status == Vault.Status.READY, vault.refusal
    return vault


@pytest.fixture
def root(weed: EmbeddedWeed) -> Any:
    return s3_client(weed.url, weed.credentials["root"])


def messages(vault: Vault) -> list[str]:
    return list(Alarm.objects.standing().filter(vault=vault, code=ALARM).values_list("message", flat=True))


@pytest.mark.stack
def test_nothing_changed_raises_nothing(ready: Vault) -> None:
    check_drift_everywhere(now=NOW)

    assert messages(ready) == []
    assert set(ready.settings_seen) == {
        *("object lock and default retention", "versioning", "lifecycle rules", "policy", "public access block"),
    }
    assert ready.settings_seen["public access block"] == "NotImplemented"


@pytest.mark.stack
def test_a_lifecycle_rule_is_noticed_and_forgotten_when_it_is_gone(ready: Vault, root: Any) -> None:
    root.put_bucket_lifecycle_configuration(Bucket=ready.bucket, LifecycleConfiguration=EXPIRE)
    check_drift(vault_id=str(ready.pk), now=NOW)
    assert "lifecycle rules: was" in messages(ready)[0]
    assert '"NoSuchLifecycleConfiguration", is [{' in messages(ready)[0]
    assert '"Expiration": {"Days": 1}' in messages(ready)[0]

    root.delete_bucket_lifecycle(Bucket=ready.bucket)
    check_drift(vault_id=str(ready.pk), now=NOW)

    assert messages(ready) == []


@pytest.mark.stack
def test_another_default_retention_is_noticed(ready: Vault, root: Any) -> None:
    root.put_object_lock_configuration(Bucket=ready.bucket, ObjectLockConfiguration=SHORTER)

    check_drift(vault_id=str(ready.pk), now=NOW)

    assert "COMPLIANCE" in messages(ready)[0] and "GOVERNANCE" in messages(ready)[0]


@pytest.mark.stack
def test_a_policy_that_opens_the_bucket_is_noticed(ready: Vault, root: Any) -> None:
    policy = json.dumps(OPEN_POLICY).replace(":::*/*", f":::{ready.bucket}/*")
    root.put_bucket_policy(Bucket=ready.bucket, Policy=policy)

    check_drift(vault_id=str(ready.pk), now=NOW)

    assert "policy: was" in messages(ready)[0]


@pytest.mark.stack
def test_settings_that_cannot_be_read_any_more_are_an_alarm(ready: Vault, hold: Any) -> None:
    hold(provisioner="reaper")

    check_drift(vault_id=str(ready.pk), now=NOW)

    assert "cannot be read any more" in messages(ready)[0]


@pytest.mark.stack
def test_a_policy_that_is_meant_so_is_accepted_and_a_weaker_lock_never(ready: Vault, root: Any) -> None:
    boss = make_person(superadmin=True)
    policy = json.dumps(OPEN_POLICY).replace(":::*/*", f":::{ready.bucket}/*")
    root.put_bucket_policy(Bucket=ready.bucket, Policy=policy)
    check_drift(vault_id=str(ready.pk), now=NOW)
    ready.refresh_from_db()

    accept_settings(ready, digest=digest_of(ready), reason="a mirror reads it", actor=boss, now=NOW)
    check_drift(vault_id=str(ready.pk), now=NOW)
    assert messages(ready) == []

    root.put_object_lock_configuration(Bucket=ready.bucket, ObjectLockConfiguration=SHORTER)
    check_drift(vault_id=str(ready.pk), now=NOW)
    ready.refresh_from_db()
    with pytest.raises(ConflictError, match="GOVERNANCE"):
        accept_settings(ready, digest=digest_of(ready), reason="cheaper", actor=boss, now=NOW)
    assert "GOVERNANCE" in messages(ready)[0]


def test_a_store_that_does_not_answer_concludes_nothing(db: None, control: None, vault: Vault) -> None:
    vault.endpoint.url = "http://127.0.0.1:1"
    vault.endpoint.save()
    Vault.objects.filter(pk=vault.pk).update(settings_seen={"versioning": "Enabled"})
    Alarm.objects.create(vault=vault, code=ALARM, message="policy: was a, is b", seen_at=NOW)

    check_drift(vault_id=str(vault.pk), now=NOW)

    assert messages(vault) == ["policy: was a, is b"]


@pytest.mark.stack
def test_what_was_seen_first_stays_the_measure(ready: Vault, root: Any) -> None:
    before = ready.settings_seen
    root.put_bucket_lifecycle_configuration(Bucket=ready.bucket, LifecycleConfiguration=EXPIRE)

    note_settings(ready)

    ready.refresh_from_db()
    assert ready.settings_seen == before != read_settings(ready)


values = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)
all_settings = st.dictionaries(st.sampled_from(["lock", "policy", "rules"]), values, max_size=3)


@given(all_settings, all_settings)
def test_exactly_the_changed_settings_are_named(before: dict[str, Any], now: dict[str, Any]) -> None:
    named = [sentence.partition(":")[0] for sentence in differences(before, now)]

    assert named == sorted(name for name in {*before, *now} if before.get(name) != now.get(name))


@given(all_settings)
def test_equal_settings_are_no_difference(found: dict[str, Any]) -> None:
    assert differences(found, json.loads(json.dumps(found))) == []
