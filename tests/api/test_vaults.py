"""Vaults and alarms through the API: the worst first, why one is over, putting one aside, accepting settings."""

from __future__ import annotations

from typing import Any

import pytest

from tests.worlds import World
from vaults.acceptance import digest_of
from vaults.alarms import clear_alarm, raise_alarm
from vaults.models import Alarm, SettingsAcceptance, TenantKey, Vault

LOCK = "object lock and default retention"
STRONG = {
    LOCK: {"ObjectLockEnabled": "Enabled", "Rule": {"DefaultRetention": {"Mode": "COMPLIANCE", "Days": 14}}},
    "versioning": "Enabled",
    "lifecycle rules": [],
}


def change(vault: Vault, **settings: Any) -> str:
    """Settings as the last look would have found them; the digest that a person sees."""
    vault.settings_seen, vault.settings_found = STRONG, {**STRONG, **settings}
    vault.save()
    return digest_of(vault)


def post(world: World, path: str, body: dict[str, Any], name: str = "super") -> Any:
    return world.client(name).post(f"/api/v1/{path}", body, format="json")


def alarms(world: World, query: str = "") -> list[dict[str, Any]]:
    return list(world.client("admin_a").get(f"/api/v1/alarms/{query}").json()["results"])


def test_the_worst_alarm_comes_first_and_says_how_bad_it_is(world: World) -> None:
    vault, now = world.ours.vault, world.ours.alarm.seen_at
    raise_alarm(vault, code="scrub_late", message="late", now=now)
    raise_alarm(vault, code="extra_version_same", subject="t/key", message="twice", now=now)
    raise_alarm(vault, code="objects_missing", message="gone", now=now)

    found = [(row["severity"], row["code"], row["subject"]) for row in alarms(world)]

    assert found == [
        ("critical", "objects_missing", ""),
        ("critical", "damaged_objects", ""),
        ("warning", "scrub_late", ""),
        ("info", "extra_version_same", "t/key"),
    ]


def test_one_that_is_over_says_when_and_why(world: World) -> None:
    clear_alarm(world.ours.vault, code="damaged_objects", now=world.ours.alarm.seen_at)

    [row] = alarms(world, "?cleared=true")

    assert row["cleared_reason"] == "No object is damaged any more: they are whole again, or removed."
    assert row["cleared_at"]


def test_a_superadmin_puts_an_alarm_aside(world: World) -> None:
    address = f"alarms/{world.ours.alarm.pk}/acknowledge/"
    assert post(world, address, {"note": "x" * 256}).status_code == 400
    assert post(world, address, {"unknown": "x"}).status_code == 400

    answer = post(world, address, {"note": "a disk was changed"})

    assert answer.status_code == 200, answer.content
    [row] = alarms(world)
    assert (row["acknowledged_by"], row["acknowledgement"]) == ("super", "a disk was changed")
    assert (row["cleared_at"], answer.json()["id"]) == (None, str(world.ours.alarm.pk))


def test_one_that_needs_nothing_more_is_closed_and_answered(world: World) -> None:
    raise_alarm(world.ours.vault, code="extra_version_same", subject="k", message="m", now=world.ours.alarm.seen_at)
    alarm = Alarm.objects.get(code="extra_version_same")

    answer = post(world, f"alarms/{alarm.pk}/acknowledge/", {})

    assert answer.status_code == 200
    assert answer.json()["cleared_reason"] == "Acknowledged by super."


def test_a_vault_tells_what_its_store_lacks_and_what_was_changed(world: World) -> None:
    vault = world.ours.vault
    vault.capabilities = {"conditional_create": False, "checks_md5": True}
    digest = change(vault, policy={"Statement": []})

    told = world.client("admin_a").get(f"/api/v1/vaults/{vault.pk}/").json()

    assert [sentence.split(":")[0] for sentence in told["lacking"]] == ["The store ignores If-None-Match"]
    assert [sentence.split(":")[0] for sentence in told["settings_changes"]] == ["policy"]
    assert (told["settings_weaknesses"], told["settings_digest"]) == ([], digest)


def test_changed_settings_are_accepted_with_a_reason(world: World) -> None:
    vault = world.ours.vault
    digest = change(vault, policy={"Statement": []})
    address = f"vaults/{vault.pk}/accept-settings/"
    assert post(world, address, {"digest": digest}).status_code == 400
    assert post(world, address, {"digest": "0" * 64, "reason": "x"}).json()["code"] == "settings_moved_on"
    assert post(world, address, {"digest": digest, "reason": "x"}, "admin_a").status_code == 403

    answer = post(world, address, {"digest": digest, "reason": "a new rule of the house"})

    assert answer.status_code == 200, answer.content
    assert (answer.json()["settings_changes"], answer.json()["settings_digest"]) == ([], "")
    accepted = SettingsAcceptance.objects.get()
    assert (accepted.actor_name, accepted.reason) == ("super", "a new rule of the house")


def test_a_weakening_is_refused_with_what_to_do(world: World) -> None:
    vault = world.ours.vault
    digest = change(vault, versioning="Suspended")
    told = world.client("super").get(f"/api/v1/vaults/{vault.pk}/").json()

    answer = post(world, f"vaults/{vault.pk}/accept-settings/", {"digest": digest, "reason": "x"})

    assert (answer.status_code, answer.json()["code"]) == (409, "settings_too_weak")
    assert "enable versioning" in answer.json()["detail"]
    assert "enable versioning" in told["settings_weaknesses"][0]
    assert not SettingsAcceptance.objects.exists()


@pytest.mark.parametrize("mode", ["managed", "customer"])
def test_a_key_says_what_its_mode_means(world: World, mode: str) -> None:
    wrapped = b"x" if mode == "managed" else None
    TenantKey.objects.filter(pk=world.ours.key.pk).update(mode=mode, wrapped_private_key=wrapped)

    told = world.client("admin_a").get(f"/api/v1/keys/{world.ours.key.pk}/").json()

    assert ("backupsite-restore" in told["meaning"]) == (mode == "customer")
