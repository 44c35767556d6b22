"""Webhooks, subscriptions and deliveries in API and portal: each sees his own, and no secret twice."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from django.db import IntegrityError, transaction

from tenants.models import AuditEvent, NoticeKey, OutboxMessage, Person, Subscription, Webhook
from tenants.notices import services
from tenants.notices.sealing import unseal
from tests.factories import NOTICE_KEY, make_delivery, make_person, make_subscription, make_tenant, make_webhook
from tests.worlds import World

API = "/api/v1/"
NAMES = ("super", "admin_a", "admin_b", "owner_a1", "owner_a2")
URL = "https://hook.example.com/in"


def give_addresses() -> None:
    for person in Person.objects.all():
        Person.objects.filter(pk=person.pk).update(email=f"{person.username}@example.com")


def body(world: World, **changes: Any) -> dict[str, Any]:
    return {"tenant": str(world.ours.tenant.pk), "label": "chat", "url": URL, **changes}


# --- who sees what ----------------------------------------------------------------------------------------------------


def visible(world: World, resource: str, name: str) -> set[str]:
    rows = world.client(name).get(f"{API}{resource}/").json()["results"]
    return {row["id"] for row in rows}


@pytest.mark.case("AZ-03")
def test_lists_hold_exactly_what_is_ones_own(world: World) -> None:
    installation = make_webhook(None)
    wide = make_subscription(address="all@example.com")
    own = {name: make_subscription(person=world.people[name]) for name in NAMES}
    wide_delivery = make_delivery(installation)
    ours, theirs = world.ours, world.theirs
    webhooks = {
        "admin_a": {ours.webhook},
        "admin_b": {theirs.webhook},
        "super": {ours.webhook, theirs.webhook, installation},
    }
    subscriptions = {"admin_a": {ours.subscription}, "admin_b": {theirs.subscription}}
    deliveries = {
        "admin_a": {ours.delivery},
        "admin_b": {theirs.delivery},
        "super": {ours.delivery, theirs.delivery, wide_delivery},
    }

    for name in NAMES:
        assert visible(world, "webhooks", name) == {str(row.pk) for row in webhooks.get(name, set())}, name
        assert visible(world, "deliveries", name) == {str(row.pk) for row in deliveries.get(name, set())}, name
        expected = {own[name], *subscriptions.get(name, set())}
        if name == "super":
            expected = {*own.values(), wide, ours.subscription, theirs.subscription}
        assert visible(world, "subscriptions", name) == {str(row.pk) for row in expected}, name


def test_nothing_of_another_tenant_is_in_the_text(world: World) -> None:
    hidden = [world.theirs.webhook, world.theirs.subscription, world.theirs.delivery, world.theirs.tenant]

    for resource in ("webhooks", "subscriptions", "deliveries"):
        text = world.client("admin_a").get(f"{API}{resource}/").content.decode()
        assert not [row for row in hidden if str(row.pk) in text]
        assert "team-b@" not in text and world.theirs.webhook.label not in text


@pytest.mark.parametrize("resource", ["webhooks", "subscriptions"])
def test_a_filter_by_a_foreign_tenant_finds_nothing(world: World, resource: str) -> None:
    client = world.client("admin_a")

    assert client.get(f"{API}{resource}/?tenant={world.theirs.tenant.pk}").json()["results"] == []
    assert len(client.get(f"{API}{resource}/?tenant={world.ours.tenant.pk}").json()["results"]) == 1


def test_an_administrator_does_not_see_or_end_a_super_admins_own_subscription(world: World) -> None:
    own = make_subscription(person=world.people["super"], tenant=world.ours.tenant)
    client = world.client("admin_a")

    assert client.get(f"{API}subscriptions/{own.pk}/").status_code == 404
    assert client.delete(f"{API}subscriptions/{own.pk}/").status_code == 404


def test_what_was_sent_to_a_person_is_seen_by_him_and_by_super_admins(world: World) -> None:
    message = make_delivery(world.ours.webhook)
    own = make_subscription(person=world.people["owner_a1"])
    OutboxMessage.objects.filter(pk=message.pk).update(kind="email", webhook=None, subscription=own)

    seen = {name for name in NAMES if str(message.pk) in visible(world, "deliveries", name)}

    assert seen == {"super", "owner_a1"}


# --- webhooks ---------------------------------------------------------------------------------------------------------


def test_a_webhook_is_made_and_its_secret_shown_once(world: World) -> None:
    client = world.client("admin_a")

    answer = client.post(f"{API}webhooks/", body(world, events=["backup.failed"], severity="critical"))

    assert answer.status_code == 201
    assert answer["Cache-Control"] == "no-store"
    secret, pk = answer.json()["secret"], answer.json()["webhook"]
    webhook = Webhook.objects.get(pk=pk)
    assert unseal(webhook.sealed_secret, webhook_id=webhook.pk, private=NOTICE_KEY) == secret
    for address in (f"webhooks/{pk}/", "webhooks/", "deliveries/"):
        text = client.get(API + address).content.decode()
        assert secret not in text and "sealed" not in text and webhook.sealed_secret not in text
    shown = client.get(f"{API}webhooks/{pk}/").json()
    assert (shown["events"], shown["severity"], shown["status"]) == (["backup.failed"], "critical", "active")
    assert AuditEvent.objects.filter(action="webhook.create", subject_id=pk).exists()


def test_a_secret_is_not_given_again_for_the_same_idempotency_key(world: World) -> None:
    client = world.client("admin_a")
    first = client.post(f"{API}webhooks/", body(world), headers={"Idempotency-Key": "once"})

    again = client.post(f"{API}webhooks/", body(world), headers={"Idempotency-Key": "once"})

    assert (first.status_code, again.status_code) == (201, 409)
    assert first.json()["secret"] not in again.content.decode()
    assert Webhook.objects.filter(label="chat").count() == 1


def test_changing_a_secret_keeps_the_earlier_one_for_a_day(world: World) -> None:
    webhook = world.ours.webhook

    answer = world.client("admin_a").post(f"{API}webhooks/{webhook.pk}/rotate-secret/")

    before, webhook = webhook.sealed_secret, Webhook.objects.get(pk=webhook.pk)
    assert webhook.sealed_previous == before
    assert unseal(webhook.sealed_secret, webhook_id=webhook.pk, private=NOTICE_KEY) == answer.json()["secret"]


@pytest.mark.parametrize(
    "changes",
    [
        {"url": "http://hook.example.com/"},
        {"url": "https://127.0.0.1/"},
        {"url": "https://169.254.169.254/latest"},
        {"url": "https://2130706433/"},
        {"url": "file:///etc/passwd"},
        {"url": "https://u:p@example.com/"},
        {"events": ["backup.exploded"]},
        {"events": ["notice.test"]},
        {"events": ["webhook.disabled"]},
        {"events": "all"},
        {"severity": "awful"},
        {"severity": 3},
        {"label": ""},
        {"label": "a\u202eb"},
        {"status": "active"},
        {"sealed_secret": "x"},
        {"consecutive_failures": 0},
        {"tenant": "1"},
    ],
)
def test_what_is_wrong_is_refused(world: World, changes: dict[str, Any]) -> None:
    answer = world.client("admin_a").post(f"{API}webhooks/", body(world, **changes))

    assert answer.status_code == 400
    assert not Webhook.objects.filter(label="chat").exists()


@pytest.mark.parametrize("url", ["https://127.0.0.1/", "https://[::1]/", "http://hook.example.com/"])
def test_nor_can_it_be_changed_to_it(world: World, url: str) -> None:
    answer = world.client("admin_a").patch(f"{API}webhooks/{world.ours.webhook.pk}/", {"url": url})

    assert (answer.status_code, answer.json()["code"]) == (400, "forbidden_target")
    assert answer.json()["errors"][0]["field"] == "url"


def test_a_foreign_tenant_or_none_is_refused(world: World) -> None:
    client = world.client("admin_a")

    assert client.post(f"{API}webhooks/", body(world, tenant=str(world.theirs.tenant.pk))).status_code == 404
    assert client.post(f"{API}webhooks/", body(world, tenant=None)).status_code == 403
    assert world.client("super").post(f"{API}webhooks/", body(world, tenant=None)).status_code == 201


def test_the_tenant_of_a_webhook_cannot_be_changed(world: World) -> None:
    client = world.client("super")

    answer = client.patch(f"{API}webhooks/{world.ours.webhook.pk}/", {"tenant": str(world.theirs.tenant.pk)})

    assert answer.status_code == 400


def test_a_webhook_that_was_switched_off_is_switched_on_in_one_step(world: World) -> None:
    off = {"status": Webhook.Status.DISABLED, "status_reason": "20 attempts", "consecutive_failures": 20}
    Webhook.objects.filter(pk=world.ours.webhook.pk).update(**off)

    answer = world.client("admin_a").patch(f"{API}webhooks/{world.ours.webhook.pk}/", {"status": "active"})

    shown = answer.json()
    assert (shown["status"], shown["status_reason"], shown["consecutive_failures"]) == ("active", "", 0)
    refused = world.client("admin_a").patch(f"{API}webhooks/{world.ours.webhook.pk}/", {"status": "disabled"})
    assert refused.status_code == 400


def test_a_change_of_what_was_changed_meanwhile_is_refused(world: World) -> None:
    client, address = world.client("admin_a"), f"{API}webhooks/{world.ours.webhook.pk}/"
    etag = client.get(address)["ETag"]
    client.patch(address, {"label": "first"})

    assert client.patch(address, {"label": "second"}, headers={"If-Match": etag}).status_code == 412


def test_without_a_sender_no_webhook_is_made(world: World) -> None:
    NoticeKey.objects.all().delete()

    answer = world.client("admin_a").post(f"{API}webhooks/", body(world))

    assert (answer.status_code, answer.json()["code"]) == (503, "no_sender")


def test_there_are_not_too_many_webhooks(world: World) -> None:
    for _ in range(services.MOST_WEBHOOKS - 1):
        make_webhook(world.ours.tenant)

    answer = world.client("admin_a").post(f"{API}webhooks/", body(world))

    assert (answer.status_code, answer.json()["code"]) == (409, "too_many_webhooks")


def test_a_test_is_one_delivery(world: World) -> None:
    client, address = world.client("admin_a"), f"{API}webhooks/{world.ours.webhook.pk}/test/"

    answer = client.post(address)

    assert answer.status_code == 202
    assert (answer.json()["event"], answer.json()["state"]) == ("notice.test", "pending")
    assert client.post(address).json()["code"] == "test_waits"


def test_what_was_given_up_is_sent_again_once(world: World) -> None:
    client, address = world.client("admin_a"), f"{API}deliveries/{world.ours.delivery.pk}/retry/"

    assert client.post(address).json()["state"] == "pending"
    assert client.post(address).json()["code"] == "not_dead"


# --- subscriptions ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_everybody_subscribes_himself(world: World, name: str) -> None:
    give_addresses()

    answer = world.client(name).post(f"{API}subscriptions/", {"events": ["backup.failed"]})

    assert answer.status_code == 201
    shown = answer.json()
    assert (shown["is_mine"], shown["address"], shown["tenant"], shown["severity"]) == (True, "", None, "warning")
    pk = shown["id"]
    assert world.client(name).patch(f"{API}subscriptions/{pk}/", {"active": False}).json()["active"] is False
    assert world.client(name).delete(f"{API}subscriptions/{pk}/").status_code == 204


@pytest.mark.parametrize("field", ["person", "created_by"])
def test_nobody_subscribes_another_person(world: World, field: str) -> None:
    give_addresses()
    other = world.people["owner_a1"]
    assert other is not None

    answer = world.client("admin_a").post(f"{API}subscriptions/", {field: str(other.pk)})

    assert answer.status_code == 400
    assert not Subscription.objects.filter(person=other).exists()


def test_an_owner_subscribes_no_address_and_nobody_one_of_the_installation(world: World) -> None:
    assert world.client("owner_a1").post(f"{API}subscriptions/", {"address": "x@example.com"}).status_code == 403
    assert world.client("admin_a").post(f"{API}subscriptions/", {"address": "x@example.com"}).status_code == 403
    foreign = {"address": "x@example.com", "tenant": str(world.theirs.tenant.pk)}
    assert world.client("admin_a").post(f"{API}subscriptions/", foreign).status_code == 404


@pytest.mark.parametrize(
    "address",
    [
        "x",
        "x@",
        "a@example.com\r\nBcc: b@example.com",
        "a@example.com,b@example.com",
        "A <a@example.com>",
        "ü@example.com",
    ],
)
def test_what_is_no_address_is_refused(world: World, address: str) -> None:
    answer = world.client("super").post(f"{API}subscriptions/", {"address": address})

    assert answer.status_code == 400


def test_who_has_no_address_is_told_so(world: World) -> None:
    answer = world.client("owner_a1").post(f"{API}subscriptions/", {})

    assert (answer.status_code, answer.json()["code"]) == (409, "no_address")


def test_the_table_of_events_is_there_for_all(world: World) -> None:
    rows = {row["code"]: row for row in world.client("owner_a1").get(f"{API}events/").json()}

    assert rows["backup.failed"]["severity"] == "critical"
    assert rows["backup.ok"]["recovers"] == ["backup.failed", "backup.late", "backup.missed"]
    assert "notice.test" not in rows
    assert not rows["webhook.disabled"]["by_webhook"]


# --- the portal -------------------------------------------------------------------------------------------------------


def text_of(world: World, name: str, address: str) -> str:
    answer = world.client(name).get(address)
    assert answer.status_code == 200
    return str(answer.content.decode())


@pytest.mark.parametrize("name", NAMES)
def test_the_page_shows_ones_own_and_no_more(world: World, name: str) -> None:
    text = text_of(world, name, "/notifications/")

    seen = {"ours": "team-a@example.com" in text, "theirs": "team-b@example.com" in text}
    assert seen == {"ours": name in {"super", "admin_a"}, "theirs": name in {"super", "admin_b"}}
    assert ("New webhook" in text) is (not name.startswith("owner"))
    assert ("Address of a team" in text) is (not name.startswith("owner"))


def test_a_webhook_made_in_the_portal_shows_its_secret_once(world: World) -> None:
    client = world.client("admin_a")
    form = {"label": "chat", "url": URL, "tenant": str(world.ours.tenant.pk), "severity": "1", "events": ["backup.ok"]}

    answer = client.post("/webhooks/new/", form, format="multipart")

    found = re.search(r"whsec_[A-Za-z0-9+/=]{40,}", answer.content.decode())
    assert found is not None
    assert answer["Cache-Control"] == "no-store"
    webhook = Webhook.objects.get(label="chat")
    assert unseal(webhook.sealed_secret, webhook_id=webhook.pk, private=NOTICE_KEY) == found.group()
    assert "whsec_" not in text_of(world, "admin_a", f"/webhooks/{webhook.pk}/")


def test_a_wrong_address_is_said_where_it_was_typed(world: World) -> None:
    form = {"label": "chat", "url": "https://127.0.0.1/", "tenant": str(world.ours.tenant.pk), "severity": "1"}

    answer = world.client("admin_a").post("/webhooks/new/", form, format="multipart")

    assert answer.status_code == 400
    assert "that the service does not speak to" in answer.content.decode()


def test_a_foreign_tenant_cannot_be_chosen(world: World) -> None:
    form = {"label": "chat", "url": URL, "tenant": str(world.theirs.tenant.pk), "severity": "1"}

    assert world.client("admin_a").post("/webhooks/new/", form, format="multipart").status_code == 400
    assert not Webhook.objects.filter(label="chat").exists()


def test_buttons_do_what_they_say(world: World) -> None:
    client, webhook = world.client("admin_a"), world.ours.webhook
    base = f"/webhooks/{webhook.pk}/"

    assert client.post(base + "test/").status_code == 302
    assert OutboxMessage.objects.filter(event__code="notice.test").exists()
    client.post(base + "status/", {"status": "paused"}, format="multipart")
    webhook.refresh_from_db()
    assert webhook.status == "paused"
    assert "whsec_" in client.post(base + "rotate/").content.decode()
    assert client.post(f"/deliveries/{world.ours.delivery.pk}/retry/").status_code == 302
    assert client.post(f"/subscriptions/{world.ours.subscription.pk}/remove/").status_code == 302
    client.post(base + "remove/")
    assert not Webhook.objects.filter(pk=webhook.pk).exists()
    assert not Subscription.objects.filter(pk=world.ours.subscription.pk).exists()


@pytest.mark.parametrize("verb", ["test", "status", "rotate", "remove"])
@pytest.mark.parametrize("name", ["admin_b", "owner_a1"])
def test_buttons_of_others_do_not_exist(world: World, verb: str, name: str) -> None:
    assert world.client(name).post(f"/webhooks/{world.ours.webhook.pk}/{verb}/").status_code == 404


def test_somebody_subscribes_himself_in_the_portal(world: World) -> None:
    give_addresses()

    answer = world.client("owner_a1").post("/subscriptions/new/", {"severity": "2"}, format="multipart")

    assert answer.status_code == 302
    assert Subscription.objects.filter(person=world.people["owner_a1"]).count() == 1


@pytest.mark.case("IN-08")
def test_what_others_answered_is_escaped(world: World) -> None:
    OutboxMessage.objects.filter(pk=world.ours.delivery.pk).update(last_error="<script>alert(1)</script>")
    Webhook.objects.filter(pk=world.ours.webhook.pk).update(label="<img src=x>")

    for address in ("/notifications/", f"/webhooks/{world.ours.webhook.pk}/"):
        text = text_of(world, "admin_a", address)
        assert "<script>alert" not in text and "<img src=x>" not in text


# --- the database itself ----------------------------------------------------------------------------------------------


def test_a_message_has_one_receiver_and_a_subscription_too(db: None) -> None:
    message = make_delivery(make_webhook(make_tenant()))
    person = make_person()

    for changes in ({"person": person}, {"webhook": None}, {"kind": "email"}, {"state": "sending"}):
        with pytest.raises(IntegrityError), transaction.atomic():
            OutboxMessage.objects.filter(pk=message.pk).update(**changes)
    for values in ({}, {"person": person, "address": "x@example.com"}):
        with pytest.raises(IntegrityError), transaction.atomic():
            make_subscription(**values)


def test_the_answer_of_the_api_is_json_without_hidden_parts(world: World) -> None:
    shown = json.loads(world.client("super").get(f"{API}webhooks/{world.ours.webhook.pk}/").content)

    assert set(shown) == {
        "id",
        "tenant",
        "label",
        "url",
        "events",
        "severity",
        "status",
        "status_reason",
        "consecutive_failures",
        "tried_at",
        "succeeded_at",
        "previous_until",
        "created_at",
        "changed_at",
    }
