"""Pages that are no lists stay true while they are open: what is sent, paused, taken, found, and the health."""

from __future__ import annotations

import re
from datetime import timedelta
from uuid import uuid4

import pytest
from django.utils import timezone

from agents.models import Agent
from definitions.models import DefinitionPause
from tenants.models import OutboxMessage, Webhook
from tests.factories import make_delivery, make_stray_copy
from tests.portal.test_renewing import ask, seen_of
from tests.worlds import World


def test_what_is_sent_is_seen_to_arrive(world: World) -> None:
    """Every five seconds while it is on its way, and no more when it has to be tried again after minutes."""
    webhook, client = world.ours.webhook, world.client("admin_a")
    message = make_delivery(webhook, state="pending")
    for address in (f"/webhooks/{webhook.pk}/", "/notifications/"):
        OutboxMessage.objects.filter(pk=message.pk).update(state="pending", attempts=0, last_error="", status_code=None)
        page = client.get(address).text
        seen = re.search(r'id="renewed" data-seen="([0-9a-f]+)" hx-get="[^"]+" hx-trigger="every 5s, renew"', page)
        assert seen and "waits" in page, address

        OutboxMessage.objects.filter(pk=message.pk).update(
            state="sending", attempts=1, claim=uuid4(), lease_until=timezone.now()
        )
        assert "every 5s" in (part := ask(client, address, seen[1]).text) and "is being sent" in part
        OutboxMessage.objects.filter(pk=message.pk).update(
            state="pending", claim=None, lease_until=None, last_error="It did not answer."
        )
        assert "every 45s" in (part := ask(client, address, seen[1]).text) and "It did not answer." in part
        OutboxMessage.objects.filter(pk=message.pk).update(state="done", status_code=204)
        assert "delivered" in ask(client, address, seen[1]).text


def test_a_webhook_that_was_switched_off_says_so_while_the_page_is_open(world: World) -> None:
    client = world.client("admin_a")
    page = client.get("/notifications/").text
    seen = re.search(r'id="webhooks" data-seen="([0-9a-f]+)" hx-get="[^"]+" hx-trigger="every 45s, renew"', page)
    assert seen and ask(client, "/notifications/", seen[1], "webhooks").status_code == 204

    Webhook.objects.filter(pk=world.ours.webhook.pk).update(status="disabled")

    part = ask(client, "/notifications/", seen[1], "webhooks").text
    assert part.startswith('<div id="webhooks"') and "disabled" in part and "New mails" not in part


def test_what_is_paused_taken_and_found_is_in_the_part(world: World) -> None:
    ours, client = world.ours, world.client("super")
    seen = {address: seen_of(client.get(address).text) for address in ("/pauses/", "/releases/", "/copies/")}

    DefinitionPause.objects.filter(pk=ours.pause.pk).update(reason="the store is being moved")
    Agent.objects.filter(pk=ours.agent.pk).update(release=ours.release, release_taken=True)
    strange = make_stray_copy(ours.server)

    texts = [ask(client, address, before).text for address, before in seen.items()]
    for text, word in zip(texts, ["the store is being moved", "1 have it", strange.place], strict=True):
        assert word in text


def test_the_health_of_the_service_renews_itself_with_the_time_when_it_was_looked_at(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, now = world.client("super"), timezone.now()
    monkeypatch.setattr(timezone, "now", lambda: now)
    seen = seen_of(client.get("/health/").text)
    assert ask(client, "/health/", seen).status_code == 204
    later = now + timedelta(minutes=1)
    monkeypatch.setattr(timezone, "now", lambda: later)

    part = ask(client, "/health/", seen).text

    assert part.startswith('<div id="renewed"') and f"{later:%Y-%m-%d %H:%M:%S} UTC" in part


def test_a_ring_that_is_refused_is_not_asked_for_again(world: World) -> None:
    typed = {"state": "offered", "percent": 101}
    answer = world.client("super").post(f"/releases/{world.ours.release.pk}/ring/", typed, format="multipart")

    assert answer.status_code == 400 and "data-seen" not in answer.text
