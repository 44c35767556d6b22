"""Changed settings that are meant to be so: accepted as seen, with name and reason, unless they are too weak."""

from __future__ import annotations

import io
from copy import deepcopy
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from hypothesis import given
from hypothesis import strategies as st

from common.errors import BackupsiteError, ConflictError, InvalidInputError, NotAllowedError
from tenants.models import AuditEvent
from tests.factories import a_moment, make_person, make_tenant, make_vault
from vaults import drift
from vaults.acceptance import accept_settings, digest_of, open_changes, weaknesses
from vaults.drift import ALARM, check_drift
from vaults.models import Alarm, SettingsAcceptance, Vault

NOW = a_moment()
LOCK = "object lock and default retention"
GOOD: dict[str, Any] = {
    LOCK: {"ObjectLockEnabled": "Enabled", "Rule": {"DefaultRetention": {"Mode": "COMPLIANCE", "Days": 14}}},
    "versioning": "Enabled",
    "lifecycle rules": "NoSuchLifecycleConfiguration",
    "policy": "NoSuchBucketPolicy",
    "public access block": "NotImplemented",
}
HARMLESS = {**GOOD, "policy": {"Statement": []}}


def lock(**retention: Any) -> dict[str, Any]:
    return {**GOOD, LOCK: {"ObjectLockEnabled": "Enabled", "Rule": {"DefaultRetention": retention}}}


def rule(**fields: Any) -> dict[str, Any]:
    return {**GOOD, "lifecycle rules": [{"ID": "r", "Status": "Enabled", **fields}]}


WEAK: dict[str, tuple[dict[str, Any], str]] = {
    "no lock": ({**GOOD, LOCK: "ObjectLockConfigurationNotFoundError"}, "switch it on"),
    "lock off": ({**GOOD, LOCK: {"Rule": GOOD[LOCK]["Rule"]}}, "switch it on"),
    "no rule": ({**GOOD, LOCK: {"ObjectLockEnabled": "Enabled"}}, "no default retention"),
    "governance": (lock(Mode="GOVERNANCE", Days=14), "GOVERNANCE"),
    "shorter": (lock(Mode="COMPLIANCE", Days=13), "13 days only"),
    "no length": (lock(Mode="COMPLIANCE"), "0 days only"),
    "suspended": ({**GOOD, "versioning": "Suspended"}, "enable versioning"),
    "nothing told": ({}, "enable versioning"),
    "expires": (rule(Expiration={"Days": 1}), "'r' deletes by itself"),
    "expires versions": (rule(NoncurrentVersionExpiration={"NoncurrentDays": 1}), "'r' deletes by itself"),
    "rules as text": ({**GOOD, "lifecycle rules": "AccessDenied"}, "cannot be understood"),
    "rules of text": ({**GOOD, "lifecycle rules": ["x"]}, "cannot be understood"),
}
STRONG = {
    "as it was": GOOD,
    "a policy": HARMLESS,
    "longer": lock(Mode="COMPLIANCE", Days=15),
    "a year": lock(Mode="COMPLIANCE", Years=1),
    "a rule that only cleans uploads": rule(AbortIncompleteMultipartUpload={"DaysAfterInitiation": 1}),
    "a rule that is off": rule(Status="Disabled", Expiration={"Days": 1}),
    "no rules": {**GOOD, "lifecycle rules": []},
}


@pytest.mark.parametrize("name", WEAK)
def test_what_breaks_a_hard_condition_is_named_with_what_to_do(name: str) -> None:
    settings, words = WEAK[name]

    assert words in " ".join(weaknesses(settings, immutable_days=14))


@pytest.mark.parametrize("name", STRONG)
def test_what_breaks_none_is_no_weakness(name: str) -> None:
    assert weaknesses(STRONG[name], immutable_days=14) == []


anything = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 99) | st.sampled_from(["Enabled", "COMPLIANCE", "Suspended", ""]),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(
            st.sampled_from(["ObjectLockEnabled", "Rule", "DefaultRetention", "Mode", "Days", "Years", "Status"]), inner
        )
    ),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from([LOCK, "versioning", "lifecycle rules"]), anything))
def test_only_what_is_understood_to_be_strong_is_strong(settings: dict[str, Any]) -> None:
    if weaknesses(settings, immutable_days=14):
        return

    default = settings[LOCK]["Rule"]["DefaultRetention"]
    assert settings[LOCK]["ObjectLockEnabled"] == settings["versioning"] == "Enabled"
    assert default["Mode"] == "COMPLIANCE"
    assert max(int(default.get("Days") or 0), 365 * int(default.get("Years") or 0)) >= 14


# --- accepting --------------------------------------------------------------------------------------------------------


class Bucket:
    """What the store would tell of its settings."""

    def __init__(self, vault: Vault) -> None:
        self.vault_id = vault.pk
        self.settings = deepcopy(GOOD)

    @property
    def vault(self) -> Vault:
        return Vault.objects.get(pk=self.vault_id)

    def look(self) -> None:
        check_drift(vault_id=str(self.vault_id), now=NOW)

    def change(self, settings: dict[str, Any]) -> str:
        """The digest that a person sees afterwards."""
        self.settings = deepcopy(settings)
        self.look()
        return digest_of(self.vault)

    def standing(self) -> int:
        return Alarm.objects.standing().filter(vault=self.vault_id, code=ALARM).count()


@pytest.fixture
def bucket(db: None, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    vault = make_vault(make_tenant())
    Vault.objects.filter(pk=vault.pk).update(settings_seen=GOOD)
    bucket = Bucket(vault)
    monkeypatch.setattr(drift, "read_settings", lambda vault: deepcopy(bucket.settings))
    return bucket


def accept(bucket: Bucket, digest: str, reason: str = "agreed in ticket 7", **options: Any) -> SettingsAcceptance:
    actor = options.pop("actor", None) or make_person(superadmin=True)
    return accept_settings(bucket.vault, digest=digest, reason=reason, actor=actor, now=NOW)


def code_of(bucket: Bucket, digest: str, **options: Any) -> str:
    with pytest.raises(BackupsiteError) as caught:
        accept(bucket, digest, **options)
    assert bucket.vault.settings_seen == GOOD
    assert not SettingsAcceptance.objects.exists()
    return caught.value.code


def test_an_accepted_change_is_the_measure_from_then_on(bucket: Bucket) -> None:
    digest, boss = bucket.change(HARMLESS), make_person("boss", superadmin=True)
    assert (bucket.standing(), len(open_changes(bucket.vault))) == (1, 1)

    accepted = accept(bucket, digest, actor=boss)

    assert (accepted.actor, accepted.actor_name, accepted.reason) == (boss, "boss", "agreed in ticket 7")
    assert (accepted.before, accepted.after) == (GOOD, HARMLESS)
    told = AuditEvent.objects.get(action="vault.accept_settings")
    assert (told.actor_name, told.before, told.after["reason"]) == (str(boss), GOOD, "agreed in ticket 7")
    assert "boss: agreed in ticket 7" in Alarm.objects.get(code=ALARM).cleared_reason
    bucket.look()
    assert (bucket.standing(), open_changes(bucket.vault), digest_of(bucket.vault)) == (0, [], "")
    bucket.change(GOOD)
    assert bucket.standing() == 1


@pytest.mark.parametrize("name", sorted(set(WEAK) - {"nothing told"}))
def test_a_weakening_is_refused(bucket: Bucket, name: str) -> None:
    settings, words = WEAK[name]
    digest = bucket.change(settings)

    with pytest.raises(ConflictError, match=words) as caught:
        accept(bucket, digest)

    assert caught.value.code == "settings_too_weak"
    assert (bucket.standing(), bucket.vault.settings_seen) == (1, GOOD)
    assert not SettingsAcceptance.objects.exists()


def test_nobody_accepts_what_he_has_not_seen(bucket: Bucket) -> None:
    seen = bucket.change(HARMLESS)
    bucket.change({**HARMLESS, "policy": {"Statement": [{"Principal": "*"}]}})

    assert code_of(bucket, seen) == "settings_moved_on"
    assert code_of(bucket, "") == "settings_moved_on"


def test_there_must_be_something_to_accept(bucket: Bucket) -> None:
    seen = bucket.change(HARMLESS)
    bucket.change(GOOD)

    assert code_of(bucket, seen) == code_of(bucket, "") == "no_settings_change"


def test_settings_that_cannot_be_read_are_nothing_to_accept(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = bucket.change(HARMLESS)

    def refuse(vault: Vault) -> Any:
        raise drift.StorageRefusedError("The vault refused it.")

    monkeypatch.setattr(drift, "read_settings", refuse)
    bucket.look()

    assert code_of(bucket, seen) == "no_settings_change"
    assert bucket.standing() == 1


def test_a_reason_and_a_superadmin_are_needed(bucket: Bucket) -> None:
    digest = bucket.change(HARMLESS)

    assert code_of(bucket, digest, reason=" ") == "no_reason"
    assert code_of(bucket, digest, reason="x" * 501) == InvalidInputError.code
    admin = make_person(administers=[bucket.vault.tenant])
    assert code_of(bucket, digest, actor=admin) == NotAllowedError.code


def test_what_is_accepted_while_a_look_is_under_way_is_not_overwritten(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = bucket.change(HARMLESS)

    def slow(vault: Vault) -> Any:
        found = deepcopy(bucket.settings)
        accept(bucket, digest)
        return found

    monkeypatch.setattr(drift, "read_settings", slow)
    bucket.look()

    assert (bucket.standing(), bucket.vault.settings_found, bucket.vault.settings_seen) == (0, {}, HARMLESS)


# --- the command ------------------------------------------------------------------------------------------------------


def run(*arguments: str) -> str:
    out = io.StringIO()
    call_command("accept_settings", *arguments, stdout=out)
    return out.getvalue()


def test_the_command_shows_and_accepts(bucket: Bucket) -> None:
    make_person("boss", superadmin=True)
    assert "Nothing waits" in run(bucket.vault.name)
    digest = bucket.change(HARMLESS)
    shown = run(bucket.vault.name)
    assert "policy: was" in shown and digest in shown and "CANNOT" not in shown

    assert "Accepted" in run(bucket.vault.name, "--accept", digest, "--actor", "boss", "--reason", "meant so")

    assert SettingsAcceptance.objects.get().actor_name == "boss"


def test_the_command_refuses_with_words(bucket: Bucket) -> None:
    make_person("boss", superadmin=True)
    make_person("gone", superadmin=True, active=False)
    digest = bucket.change(WEAK["shorter"][0])
    assert "CANNOT BE ACCEPTED" in run(bucket.vault.name)

    for arguments, words in (
        (["nowhere"], "no vault"),
        ([bucket.vault.name, "--accept", digest], "--actor"),
        ([bucket.vault.name, "--accept", digest, "--actor", "gone", "--reason", "x"], "--actor"),
        ([bucket.vault.name, "--accept", digest, "--actor", "boss"], "Say why"),
        ([bucket.vault.name, "--accept", digest, "--actor", "boss", "--reason", "x"], "13 days only"),
    ):
        with pytest.raises(CommandError, match=words):
            run(*arguments)
