"""Tasks over tenants: load, call, return."""

from __future__ import annotations

import random

from celery import shared_task
from django.conf import settings
from django.utils import timezone

from tenants import approvals, audit_heads, refusals
from tenants.api import idempotency
from tenants.notices import keeping, sealing, sender, services

# Beat asks every ten seconds; what is left is found by the next look.
SENDING_SECONDS = 30.0


@shared_task(expires=60)
def send_notices(**_: object) -> None:
    """Sent to the queue of the sender, which alone opens the secrets of webhooks."""
    private = settings.CONFIG.notice_key_bytes
    sealing.publish_sender_key(private)
    tools = sender.Tools(
        private_key=private, guard=services.guard(), clock=timezone.now, chance=random.SystemRandom().random
    )
    sender.send_due(tools, seconds=SENDING_SECONDS)


@shared_task
def forget_old_notices(**_: object) -> None:
    keeping.forget_old(now=timezone.now())


@shared_task(expires=60)
def tidy_audit(**_: object) -> None:
    """What a crash left unsealed, counts of refusals whose time is over, requests that nobody answered in time."""
    refusals.close_refusals(now=timezone.now())
    approvals.expire_requests(now=timezone.now())
    audit_heads.seal_all()


@shared_task
def forget_old_requests(**_: object) -> None:
    idempotency.remove_expired(now=timezone.now())


@shared_task
def check_audit(**_: object) -> None:
    audit_heads.check_audit(now=timezone.now())
