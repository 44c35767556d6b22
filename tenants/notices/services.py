"""Verbs over webhooks and subscriptions. Whoever calls them found the object, or its tenant, through `for_user`."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

from django.conf import settings
from django.core.exceptions import ValidationError
from django.core.validators import validate_email
from django.db import transaction

from common.errors import ConflictError, InvalidInputError, NotAllowedError
from common.ssrf import Guard, parse_target
from tenants.audit import record
from tenants.models import OutboxMessage, Person, Subscription, Tenant, Webhook
from tenants.notices import outbox
from tenants.notices.events import Severity, to_subscribe
from tenants.notices.publishing import send_to_webhook
from tenants.notices.sealing import new_secret, seal

MOST_WEBHOOKS = 20
MOST_SUBSCRIPTIONS = 50
PREVIOUS_SECRET_LIVES = timedelta(hours=24)


def guard() -> Guard:
    """What the operator allows."""
    return Guard.of(settings.CONFIG.webhook_networks)


# --- webhooks ---------------------------------------------------------------------------------------------------------


@transaction.atomic
def add_webhook(
    *, tenant: Tenant | None, label: str, url: str, events: Iterable[str], severity: int, actor: Person
) -> tuple[Webhook, str]:
    """The webhook and its secret, which is not to be had again. Without a tenant: the installation's, by a SuperAdmin.

    Raises NotAllowedError, InvalidInputError, ForbiddenTargetError, ConflictError when there are too many.
    """
    _check_tenant(tenant, actor)
    if _locked(Webhook, tenant).count() >= MOST_WEBHOOKS:
        raise ConflictError(f"There are {MOST_WEBHOOKS} webhooks already. Remove one first.", code="too_many_webhooks")
    webhook = Webhook(tenant=tenant, created_by=actor)
    _fill(webhook, label=label, url=url, events=events, severity=severity)
    secret = new_secret()
    webhook.sealed_secret = seal(secret, webhook_id=webhook.pk)
    webhook.save(force_insert=True)
    record(action="webhook.create", subject=webhook, actor=actor, after=_shown(webhook), tenant=tenant)
    return webhook, secret


@transaction.atomic
def change_webhook(webhook: Webhook, *, changes: dict[str, Any], actor: Person) -> Webhook:
    """Change label, url, events, severity, or the status to `active` or `paused`. To activate one forgets its failures.

    Raises InvalidInputError, ForbiddenTargetError.
    """
    current = Webhook.objects.select_for_update().get(pk=webhook.pk)
    before = _shown(current)
    status = changes.pop("status", None)
    _fill(current, **changes)
    if status is not None:
        _set_status(current, status)
    current.save()
    record(
        action="webhook.change",
        subject=current,
        actor=actor,
        before=before,
        after=_shown(current),
        tenant=current.tenant,
    )
    return current


def _set_status(webhook: Webhook, status: str) -> None:
    if status not in (Webhook.Status.ACTIVE, Webhook.Status.PAUSED):
        raise InvalidInputError("A webhook is made active or paused.", field="status")
    webhook.status, webhook.status_reason = status, ""
    webhook.consecutive_failures, webhook.not_before = 0, None


@transaction.atomic
def rotate_secret(webhook: Webhook, *, actor: Person, now: datetime) -> str:
    """A new secret. For a day messages carry both signatures, so that the receiver can change over."""
    current = Webhook.objects.select_for_update().get(pk=webhook.pk)
    secret = new_secret()
    current.sealed_previous, current.previous_until = current.sealed_secret, now + PREVIOUS_SECRET_LIVES
    current.sealed_secret = seal(secret, webhook_id=current.pk)
    current.save(update_fields=["sealed_previous", "previous_until", "sealed_secret", "changed_at"])
    record(action="webhook.rotate_secret", subject=current, actor=actor, tenant=current.tenant)
    return secret


@transaction.atomic
def remove_webhook(webhook: Webhook, *, actor: Person) -> None:
    """With all that was sent to it and that waits."""
    record(action="webhook.delete", subject=webhook, actor=actor, before=_shown(webhook), tenant=webhook.tenant)
    webhook.delete()


@transaction.atomic
def send_test(webhook: Webhook, *, actor: Person, now: datetime) -> OutboxMessage:
    """Raises ConflictError while another test waits, or the webhook is not active."""
    current = Webhook.objects.select_for_update().get(pk=webhook.pk)
    if current.status != Webhook.Status.ACTIVE:
        raise ConflictError("Activate the webhook first.", code="webhook_not_active")
    states = OutboxMessage.State
    waiting = current.messages.filter(event__code="notice.test", state__in=[states.PENDING, states.SENDING])
    if waiting.exists():
        raise ConflictError("A test is on its way already.", code="test_waits")
    # The person waits for it: no turn of an endpoint in trouble.
    Webhook.objects.filter(pk=current.pk).update(not_before=None)
    record(action="webhook.test", subject=current, actor=actor, tenant=current.tenant)
    return send_to_webhook(current, event="notice.test", name=current.label, now=now)


@transaction.atomic
def send_again(message: OutboxMessage, *, actor: Person, now: datetime) -> OutboxMessage:
    """A dead message once more. Raises ConflictError for one that is not dead."""
    if not outbox.retry(message, now=now):
        raise ConflictError("Only what was given up is sent again.", code="not_dead")
    tenant = message.webhook.tenant if message.webhook else message.event.tenant
    record(action="delivery.retry", subject=message, actor=actor, tenant=tenant)
    message.refresh_from_db()
    return message


# --- subscriptions ----------------------------------------------------------------------------------------------------


@transaction.atomic
def add_subscription(
    *, tenant: Tenant | None, address: str, events: Iterable[str], severity: int, actor: Person
) -> Subscription:
    """To the actor himself, or with an address to a team of the tenant; to a team of nobody's by a SuperAdmin only.

    Raises NotAllowedError, InvalidInputError, ConflictError when there are too many.
    """
    subscription = Subscription(tenant=tenant, created_by=actor)
    if address:
        _check_tenant(tenant, actor)
        rows = _locked(Subscription, tenant).filter(person=None)
        subscription.address = _checked_address(address)
    else:
        subscription.person = actor
        rows = Subscription.objects.filter(person=actor)
        if not actor.email:
            raise ConflictError("There is no e-mail address in your account.", code="no_address")
    if rows.count() >= MOST_SUBSCRIPTIONS:
        raise ConflictError("There are too many subscriptions. Remove one first.", code="too_many_subscriptions")
    _fill(subscription, events=events, severity=severity)
    subscription.save(force_insert=True)
    record(action="subscription.create", subject=subscription, actor=actor, after=_shown(subscription), tenant=tenant)
    return subscription


@transaction.atomic
def change_subscription(subscription: Subscription, *, changes: dict[str, Any], actor: Person) -> Subscription:
    """Events, severity, active."""
    current = Subscription.objects.select_for_update(of=("self",)).get(pk=subscription.pk)
    before = _shown(current)
    current.active = changes.pop("active", current.active)
    _fill(current, **changes)
    current.save()
    record(
        action="subscription.change",
        subject=current,
        actor=actor,
        before=before,
        after=_shown(current),
        tenant=current.tenant,
    )
    return current


@transaction.atomic
def remove_subscription(subscription: Subscription, *, actor: Person) -> None:
    record(
        action="subscription.delete",
        subject=subscription,
        actor=actor,
        before=_shown(subscription),
        tenant=subscription.tenant,
    )
    subscription.delete()


# --- shared -----------------------------------------------------------------------------------------------------------


def _check_tenant(tenant: Tenant | None, actor: Person) -> None:
    """The one who calls found the tenant; whether it is his is said here."""
    if actor.is_superuser:
        return
    if tenant is None:
        raise NotAllowedError("Only a SuperAdmin sets this up for the whole installation. Name a tenant.")
    if not actor.administered_tenants().filter(pk=tenant.pk).exists():
        raise NotAllowedError("Only an administrator of the tenant sets this up.")


def _locked(model: type[Webhook] | type[Subscription], tenant: Tenant | None) -> Any:
    """The tenant's rows; its own row is held, so that two at once do not pass the limit together."""
    if tenant is not None:
        Tenant.objects.select_for_update(no_key=True).get(pk=tenant.pk)
    return model.objects.filter(tenant=tenant)


def _fill(row: Webhook | Subscription, **values: Any) -> None:
    by_webhook = isinstance(row, Webhook)
    if "events" in values:
        values["events"] = _checked_events(values["events"], by_webhook=by_webhook)
    if "severity" in values and values["severity"] not in set(Severity):
        raise InvalidInputError("A severity is 1 (info), 2 (warning) or 3 (critical).", field="severity")
    if "url" in values:
        parse_target(values["url"], guard=guard())
    if "label" in values:
        values["label"] = values["label"].strip()
        if not 1 <= len(values["label"]) <= 100:
            raise InvalidInputError("A label has 1 to 100 characters.", field="label")
    for name, value in values.items():
        setattr(row, name, value)


def _checked_events(events: Iterable[str], *, by_webhook: bool) -> list[str]:
    """Each once, in the table's order."""
    known, wanted = to_subscribe(by_webhook=by_webhook), set(events)
    unknown = sorted(wanted - set(known))
    if unknown:
        raise InvalidInputError(f"There is no event {unknown[0][:60]!r} to ask for.", field="events")
    return [event for event in known if event in wanted]


def _checked_address(address: str) -> str:
    try:
        validate_email(address)
    except ValidationError:
        raise InvalidInputError("This is not an e-mail address.", field="address") from None
    if len(address) > 254 or not address.isascii() or not address.isprintable():
        raise InvalidInputError("Use an e-mail address of plain characters.", field="address")
    return address


def _shown(row: Webhook | Subscription) -> dict[str, Any]:
    """For the audit. Of a url the host only: its path may be a secret of the receiver's."""
    asked = {"events": row.events, "severity": row.severity}
    if isinstance(row, Webhook):
        return {"label": row.label, "host": urlsplit(row.url).hostname, "status": row.status, **asked}
    return {"address": row.address, "active": row.active, **asked}
