"""How long it is kept what was sent."""

from __future__ import annotations

from datetime import datetime, timedelta

from django.db.models import Exists, OuterRef

from tenants.models import NoticeEvent, OutboxMessage

KEEP_DELIVERED = timedelta(days=30)
KEEP_DEAD = timedelta(days=90)


def forget_old(*, now: datetime) -> int:
    """Remove messages that are long over, and events of which no message is left. Returns how many messages went."""
    State = OutboxMessage.State
    gone = 0
    for state, kept in ((State.DONE, KEEP_DELIVERED), (State.DEAD, KEEP_DEAD)):
        gone += OutboxMessage.objects.filter(state=state, finished_at__lt=now - kept).delete()[0]
    messages = OutboxMessage.objects.filter(event=OuterRef("pk"))
    NoticeEvent.objects.filter(~Exists(messages), at__lt=now - KEEP_DELIVERED).delete()
    return gone
