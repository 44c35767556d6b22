"""Looks at the definitions of which something may have changed, and tells those who subscribed: once, and when it is
over.

A definition that is as it should be is looked at again after its next run; one that is not, every few minutes.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from django.db import transaction
from django.db.models import Q, QuerySet

from backups.models import DefinitionStanding
from backups.standing import standings_of
from backups.telling import tell_of_standing, tell_that_protected
from definitions.honest_states import GRACE, Facts, Finding, Standing, State
from definitions.models import Definition
from tenants.models import Tenant

BATCH = 500
LOOK_AGAIN_AFTER = timedelta(minutes=5)
LOOK_AT_LEAST_EVERY = timedelta(hours=6)
# While something holds the definition, that nothing runs is no surprise.
_NOT_WHILE_HELD = frozenset({State.LATE, State.MISSED, State.STALE})


def look_at_due(*, now: datetime) -> int:
    """Look at up to BATCH definitions, those that wait longest first. Returns how many. May run twice at once."""
    due = _definitions().filter(Q(standing=None) | Q(standing__look_again_at__lte=now))
    active = due.filter(tenant__status=Tenant.Status.ACTIVE, retired_at=None)
    chosen = list(active.order_by("standing__look_again_at")[:BATCH])
    found = standings_of(chosen, now=now)
    for definition in chosen:
        facts, standing = found[definition.pk]
        _note(definition, facts, standing, now=now)
    return len(chosen)


def _definitions() -> QuerySet[Definition]:
    return Definition.objects.select_related("disk__server", "tenant", "standing", "vault")


@transaction.atomic
def _note(definition: Definition, facts: Facts, standing: Standing, *, now: datetime) -> None:
    # Held as the dispatcher holds it: of a run that both find late, one tells. Who has it now may have it for long:
    # it stays due.
    free = _definitions().select_for_update(of=("self",), no_key=True, skip_locked=True)
    held = free.filter(pk=definition.pk).first()
    if held is None:
        return
    row = DefinitionStanding.objects.select_for_update().filter(definition=held).first()
    before = set(row.told) if row is not None else set()
    if _by_name(standing).keys() != before:
        # Since the batch was read, the run may have begun, or be done: what people are told is so now.
        facts, standing = standings_of([held], now=now)[held.pk]
    alerts = _by_name(standing)
    for state in alerts.keys() - before:
        tell_of_standing(held, alerts[state], now=now)
    for state in before - alerts.keys():
        tell_that_protected(held, state, now=now)
    found = {
        "state": standing.state,
        "sentence": standing.sentence,
        "told": sorted(alerts),
        "looked_at": now,
        "look_again_at": _look_again_at(facts, standing, now),
    }
    if row is None:
        DefinitionStanding.objects.create(definition=held, **found)
    else:
        DefinitionStanding.objects.filter(pk=row.pk).update(**found)


def _by_name(standing: Standing) -> dict[str, Finding]:
    return {str(finding.state): finding for finding in alerts_of(standing)}


def alerts_of(standing: Standing) -> list[Finding]:
    """What people are told of."""
    held = any(finding.state == State.HELD for finding in standing.findings)
    return [alert for alert in standing.alerts if not (held and alert.state in _NOT_WHILE_HELD)]


def _look_again_at(facts: Facts, standing: Standing, now: datetime) -> datetime:
    latest = now + LOOK_AT_LEAST_EVERY
    if standing.state not in {State.PROTECTED, State.INACTIVE}:
        return now + LOOK_AGAIN_AFTER
    if facts.next_run_at is None:
        return latest
    return min(latest, max(now + timedelta(minutes=1), facts.next_run_at + GRACE))
