"""What is known of definitions, read for many at once and judged by the pure `definitions.honest_states`."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.db.models import Max, Min

from backups.models import Backup, BackupQuerySet, Job
from backups.states import BackupHealth, BackupStatus
from definitions.holds import Holds, load_holds
from definitions.honest_states import Facts, Standing, standing_of
from definitions.models import Definition
from definitions.past_holds import past_holds
from definitions.promised import Era
from definitions.schedule_history import eras_of
from vaults.drift import locks_objects
from vaults.models import ObjectUse


def standings_of(definitions: Sequence[Definition], *, now: datetime) -> dict[UUID, tuple[Facts, Standing]]:
    """Each with the facts that it was judged by. `disk.server` and `vault` must be loaded; a few queries for all."""
    good = {row["definition"]: row for row in _good(definitions).order_by().values("definition").annotate(**_NEWEST)}
    newest = _newest_of(good)
    locks = _locks_of(newest.values())
    slots = dict(
        Job.objects.filter(definition__in=definitions)
        .order_by()
        .values_list("definition")
        .annotate(last=Max("slot_at"))
    )
    only = definitions[0] if len(definitions) == 1 else None
    holds, eras = load_holds(now=now, of=only), eras_of(definitions)
    past = past_holds(definitions, begin=now - _LOOKED_BACK, end=now)
    found = {}
    for definition in definitions:
        facts = _facts(definition, good.get(definition.pk, {}), newest.get(definition.pk), holds, slots, locks)
        facts = replace(facts, earlier=_earlier(eras[definition.pk]), pauses=past.spans_of(definition))
        found[definition.pk] = (facts, standing_of(facts, now=now))
    return found


# Of a pause that was over before, nothing is open any more.
_LOOKED_BACK = timedelta(days=62)


def _earlier(eras: tuple[Era, ...]) -> tuple[Era, ...]:
    return tuple(era for era in eras if era.end is not None)


_NEWEST = {"finished": Max("finished_at"), "slot": Max("slot_at"), "verified": Max("verified_at")}


def _good(definitions: Iterable[Definition]) -> BackupQuerySet:
    whole = Backup.objects.in_catalogue().exclude(health__in=[BackupHealth.DAMAGED, BackupHealth.MISSING])
    return whole.filter(definition__in=definitions, status__in=[BackupStatus.OK, BackupStatus.RESTORE])


def _newest_of(good: dict[UUID, Any]) -> dict[UUID, Backup]:
    """The backup that was finished last of each definition."""
    rows = Backup.objects.in_catalogue().filter(
        definition__in=list(good), finished_at__in={row["finished"] for row in good.values()}
    )
    return {
        backup.definition_id: backup
        for backup in rows.select_related("manifest")
        if backup.finished_at == good[backup.definition_id]["finished"]
    }


def _locks_of(backups: Collection[Backup]) -> dict[UUID, datetime]:
    """Of each the soonest end of a lock among all that it needs, as `lock_coverage.locked_until` says it of one."""
    manifests = {backup.pk: backup.manifest for backup in backups if backup.manifest is not None}
    named = ObjectUse.objects.filter(manifest__in=list(manifests.values())).order_by()
    ends = dict(named.values_list("manifest").annotate(end=Min("needed__retain_until")))
    return {
        key: min(manifest.retain_until, ends.get(manifest.pk) or manifest.retain_until)
        for key, manifest in manifests.items()
    }


def _facts(
    definition: Definition,
    good: dict[str, Any],
    newest: Backup | None,
    holds: Holds,
    slots: dict[UUID, datetime | None],
    locks: dict[UUID, datetime],
) -> Facts:
    hold = holds.of(definition)
    hours = definition.rpo_hours
    return Facts(
        cron=definition.cron,
        time_zone=definition.time_zone,
        active=definition.active,
        since=definition.created_at,
        next_run_at=definition.next_run_at,
        last_slot_at=slots.get(definition.pk),
        last_good_at=good.get("finished"),
        last_good_slot_at=good.get("slot"),
        last_verified_at=good.get("verified"),
        locked_until=locks.get(newest.pk) if newest is not None else None,
        promised_until=newest.immutable_until if newest is not None else None,
        vault_locks=definition.vault is None or locks_objects(definition.vault),
        held_because=hold.sentence if hold is not None else "",
        rpo=timedelta(hours=hours) if hours else None,
    )
