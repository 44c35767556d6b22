"""The page of a vault, for whom it is; and what pages say where only the customer holds the key."""

from __future__ import annotations

import shlex
from typing import Any

import pytest

from engine.alone.cli import build_parser
from engine.crypto import generate_tenant_key
from tests.factories import disk_of, make_manifest
from tests.worlds import World
from vaults.acceptance import digest_of
from vaults.alarms import clear_alarm, raise_alarm
from vaults.custody import fingerprint
from vaults.models import Alarm, Envelope, ObjectUse, SettingsAcceptance, TenantKey, Vault

SETTINGS = {
    "object lock and default retention": {
        "ObjectLockEnabled": "Enabled",
        "Rule": {"DefaultRetention": {"Mode": "COMPLIANCE", "Days": 14}},
    },
    "versioning": "Enabled",
    "lifecycle rules": [],
}


def address(world: World) -> str:
    return f"/vaults/{world.ours.vault.pk}/"


def text_of(world: World, path: str, name: str = "super") -> str:
    answer = world.client(name).get(path)
    assert answer.status_code == 200
    return " ".join(answer.content.decode().split())


def send(world: World, name: str, path: str, form: dict[str, Any], **options: Any) -> Any:
    """As a browser sends a form."""
    return world.client(name).post(path, form, format="multipart", **options)


def change(vault: Vault, **settings: Any) -> str:
    vault.settings_seen, vault.settings_found = SETTINGS, {**SETTINGS, **settings}
    vault.save()
    return digest_of(vault)


# --- alarms -----------------------------------------------------------------------------------------------------------


def test_alarms_are_in_order_and_what_was_says_why(world: World) -> None:
    vault, now = world.ours.vault, world.ours.alarm.seen_at
    raise_alarm(vault, code="scrub_late", message="late", now=now)
    raise_alarm(vault, code="probe_failed", message="no", now=now)
    clear_alarm(vault, code="probe_failed", now=now)

    text = text_of(world, address(world))

    assert text.index("damaged_objects") < text.index("scrub_late") < text.index("probe_failed")
    assert "A later probe found that the store keeps what is promised." in text


def test_who_may_put_an_alarm_aside_is_offered_it(world: World) -> None:
    assert "I have seen it" in text_of(world, address(world), "super")
    assert "I have seen it" not in text_of(world, address(world), "admin_a")


def test_an_alarm_that_was_seen_is_off_the_overview_and_stands_on_its_page(world: World) -> None:
    assert ": of a" in text_of(world, "/")

    answer = send(world, "super", f"/alarms/{world.ours.alarm.pk}/acknowledge/", {"note": "being mended"})

    assert (answer.status_code, answer["Location"]) == (302, address(world))
    assert ": of a" not in text_of(world, "/")
    text = text_of(world, address(world))
    assert "Acknowledged by super" in text and "being mended" in text


def test_an_alarm_that_is_over_cannot_be_put_aside(world: World) -> None:
    clear_alarm(world.ours.vault, code="damaged_objects", now=world.ours.alarm.seen_at)

    answer = send(world, "super", f"/alarms/{world.ours.alarm.pk}/acknowledge/", {}, follow=True)

    assert "is gone already" in answer.content.decode()
    assert Alarm.objects.get(pk=world.ours.alarm.pk).acknowledged_at is None


# --- settings and store -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("capabilities", "words"),
    [
        ({}, "It was not probed yet"),
        ({"conditional_create": True}, "it can do all that the probe tries"),
        ({"conditional_create": False}, "ignores If-None-Match"),
    ],
)
def test_it_says_what_the_store_lacks(world: World, capabilities: dict[str, bool], words: str) -> None:
    Vault.objects.filter(pk=world.ours.vault.pk).update(capabilities=capabilities)

    assert words in text_of(world, address(world), "admin_a")


def test_changed_settings_are_accepted_by_a_superadmin(world: World) -> None:
    digest = change(world.ours.vault, policy={"Statement": []})
    assert "Accept these settings" in text_of(world, address(world))
    assert "Accept these settings" not in text_of(world, address(world), "admin_a")
    target = f"{address(world)}accept-settings/"
    assert send(world, "super", target, {"digest": digest}).status_code == 400

    answer = send(world, "super", target, {"digest": digest, "reason": "meant so"}, follow=True)

    text = answer.content.decode()
    assert "Accepted: these settings" in text and "meant so" in text
    assert "Accept these settings" not in text
    assert SettingsAcceptance.objects.get().actor_name == "super"


def test_settings_that_moved_on_are_shown_again(world: World) -> None:
    seen = change(world.ours.vault, policy={"Statement": []})
    change(world.ours.vault, policy={"Statement": [1]})

    answer = send(world, "super", f"{address(world)}accept-settings/", {"digest": seen, "reason": "x"})

    assert answer.status_code == 400
    assert "were changed again" in answer.content.decode()
    assert not SettingsAcceptance.objects.exists()


def test_a_weakening_offers_nothing_but_what_to_do(world: World) -> None:
    change(world.ours.vault, versioning="Suspended")

    text = text_of(world, address(world))

    assert "enable versioning" in text
    assert "Accept these settings" not in text


# --- the customer's own key -------------------------------------------------------------------------------------------


@pytest.fixture
def customer(world: World) -> World:
    """Our backup is sealed to the customer's own key, and to nothing else."""
    TenantKey.objects.filter(pk=world.ours.key.pk).update(
        mode="customer", wrapped_private_key=None, public_key=generate_tenant_key().public
    )
    manifest = world.ours.backup.manifest
    assert manifest is not None
    envelope = make_manifest(world.ours.vault)
    envelope.kind, envelope.domain = "k", manifest.domain
    envelope.save()
    ObjectUse.objects.create(manifest=manifest, needed=envelope)
    key = TenantKey.objects.get(pk=world.ours.key.pk)
    Envelope.objects.create(stored_object=envelope, writer_session="ab" * 16, recipient=fingerprint(key))
    return world


def command_in(text: str) -> list[str]:
    start = text.index("backupsite-restore restore")
    return shlex.split(text[start:].split("<")[0].replace("&#x27;", "'"))


def test_the_backup_s_page_has_the_command_and_no_restore(customer: World) -> None:
    backup = customer.ours.backup
    assert backup.manifest is not None
    text = text_of(customer, f"/backups/{backup.pk}/", "admin_a")

    command = command_in(text)

    parsed = build_parser().parse_args(command[1:])
    vault = customer.ours.vault
    assert backup.manifest.sha256.startswith(parsed.backup) and len(parsed.backup) == 12
    assert (parsed.bucket, parsed.endpoint_url) == (vault.bucket, vault.endpoint.url)
    assert (parsed.tenant, parsed.domain) == (str(vault.tenant_id), str(backup.manifest.domain_id))
    assert parsed.recovery_key_file is None
    assert f"/backups/{backup.pk}/restore/" not in text


def test_an_owner_gets_the_command_without_the_bucket(customer: World) -> None:
    text = text_of(customer, f"/backups/{customer.ours.backup.pk}/", "owner_a1")

    parsed = build_parser().parse_args(command_in(text)[1:])

    assert (parsed.bucket, parsed.endpoint_url) == ("BUCKET", "URL")
    assert customer.ours.vault.bucket not in text


def test_a_restore_is_refused_with_the_command(customer: World) -> None:
    backup, target = customer.ours.backup, disk_of(customer.ours.server)
    order = {"target": str(target.pk), "confirmation": customer.ours.server.name}

    refused = customer.client("admin_a").post(f"/api/v1/backups/{backup.pk}/restore/", order, format="json")
    shown = text_of(customer, f"/backups/{backup.pk}/restore/?target={target.pk}", "admin_a")

    assert (refused.status_code, refused.json()["code"]) == (409, "customer_key_needed")
    for text in (refused.json()["detail"], shown):
        assert build_parser().parse_args(command_in(text)[1:]).bucket == customer.ours.vault.bucket
    assert "Destroy and restore" not in shown
    assert not backup.jobs.filter(kind="restore", state="pending").exists()


def test_pages_of_server_vault_and_key_say_who_keeps_it_and_what_that_means(customer: World) -> None:
    for path in (f"/servers/{customer.ours.server.pk}/", address(customer)):
        text = text_of(customer, path, "admin_a")
        assert "the customer alone" in text and "Without the recovery key nobody can restore." in text
    assert "There is no way back" in text_of(customer, f"/keys/{customer.ours.key.pk}/", "admin_a")
    theirs = text_of(customer, f"/servers/{customer.theirs.server.pk}/", "admin_b")
    assert "the service" in theirs and "without the service" in theirs


def test_a_managed_backup_has_its_button_and_no_command(world: World) -> None:
    text = text_of(world, f"/backups/{world.ours.backup.pk}/", "admin_a")

    assert f"/backups/{world.ours.backup.pk}/restore/" in text
    assert "backupsite-restore restore" not in text


def test_the_customer_s_key_comes_into_use_only_when_its_test_is_passed(world: World) -> None:
    key, public = world.ours.key, generate_tenant_key().public.hex()

    send(world, "admin_a", f"/keys/{key.pk}/register/", {"public_key": public})

    waiting = TenantKey.objects.get(mode="customer")
    assert (waiting.status, TenantKey.objects.get(pk=key.pk).status) == ("untested", "active")
    test = send(world, "admin_a", f"/keys/{waiting.pk}/test/", {}).content.decode()
    assert "backupsite-restore answer" in test
    send(world, "admin_a", f"/keys/{waiting.pk}/answer/", {"answer": "0000-0000-0000"})
    assert TenantKey.objects.get(pk=key.pk).status == "active"
