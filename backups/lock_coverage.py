"""The lock report: promises of backups beside the locks of everything that they need, vault by vault.

    coverage_of(vault, now=...) -> Coverage
    known_coverage_of(vault, now=...) -> Coverage the same for who waits: of a large vault as it was looked over last
    check_locks(vault, now=...) -> Coverage       the same, with alarms, and one look at the store itself
    locked_until(backup) -> datetime | None

It reads the ledger; whether the store keeps to the ledger is what the scrub looks after.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from datetime import datetime, timedelta
from itertools import chain, islice
from uuid import UUID

from django.db.models import Exists, F, Min, OuterRef, Q, QuerySet

from backups.accounting import bytes_present
from backups.figure_models import VaultFigures
from backups.lock_tails import lock_tail
from backups.models import Backup, BackupQuerySet
from backups.remains import remains_of_vault, to_keep
from common.errors import UnavailableError
from vaults.alarms import clear_alarm, raise_alarm
from vaults.coverage import Coverage, Violation
from vaults.damage import PRESENT
from vaults.locks import MARGIN
from vaults.models import ObjectUse, StoredObject, Vault
from vaults.storage import Credential, see_object, store_time

logger = logging.getLogger(__name__)

SHORT_ALARM = "locks_short"
MARGIN_ALARM = "locks_margin_low"
KEEPER_ALARM = "keeper_down"
LISTED_VIOLATIONS = 100
# A vault with more is not looked over while somebody waits.
LIVE_REPORT = 500


def coverage_of(vault: Vault, *, now: datetime) -> Coverage:
    """The report of one vault."""
    backups = _catalogue(vault)
    manifests, named = _short_manifests(backups), _short_uses(vault)
    needed = _needed_objects(vault)
    return Coverage(
        vault_id=vault.pk,
        vault=vault.name,
        at=now,
        backup_count=backups.count(),
        violation_count=manifests.count() + named.count(),
        violations=tuple(islice(chain(_of_manifests(manifests), _of_uses(named)), LISTED_VIOLATIONS)),
        least_slack=_least_slack(backups.filter(immutable_until__gt=now)),
        soonest_end=needed.filter(retain_until__gt=now).aggregate(end=Min("retain_until"))["end"],
        ending_count=needed.filter(retain_until__lte=now + MARGIN).count(),
    )


def known_coverage_of(vault: Vault, *, now: datetime) -> Coverage:
    """Its `at` says of when it is: at most an hour ago, as long as checks run."""
    kept = VaultFigures.objects.filter(vault=vault, backup_count__gt=LIVE_REPORT).first()
    if kept is None:
        return coverage_of(vault, now=now)
    return Coverage(
        vault_id=vault.pk,
        vault=vault.name,
        at=kept.counted_at,
        backup_count=kept.backup_count,
        violation_count=kept.violation_count,
        violations=tuple(map(_read_violation, kept.violations)),
        least_slack=kept.least_slack,
        soonest_end=kept.soonest_end,
        ending_count=kept.ending_count,
    )


def locked_until(backup: Backup) -> datetime | None:
    """The soonest end of a lock among all that the backup needs; None while it is pending."""
    if backup.manifest is None:
        return None
    end = ObjectUse.objects.filter(manifest=backup.manifest).aggregate(end=Min("needed__retain_until"))["end"]
    return min(backup.manifest.retain_until, end or backup.manifest.retain_until)


def check_locks(vault: Vault, *, now: datetime) -> Coverage:
    """The report with its alarms; and whether the lock-keeper can do its work now: reuse is refused while it cannot."""
    coverage = coverage_of(vault, now=now)
    _keep(coverage, vault)
    _settle(vault, SHORT_ALARM, coverage.alarm, now=now)
    _settle(vault, MARGIN_ALARM, coverage.warning, now=now)
    _settle(vault, KEEPER_ALARM, _keeper_trouble(vault), now=now)
    return coverage


def check_locks_everywhere(*, now: datetime) -> None:
    """Every vault that holds backups."""
    for vault in Vault.objects.select_related("endpoint").exclude(status=Vault.Status.PENDING).order_by("pk"):
        check_locks(vault, now=now)


def _keep(coverage: Coverage, vault: Vault) -> None:
    """For pages that cannot wait for a report."""
    objects = StoredObject.objects.filter(vault=vault)
    tail = lock_tail(objects, now=coverage.at)
    figures = {
        "counted_at": coverage.at,
        "backup_count": coverage.backup_count,
        "violation_count": coverage.violation_count,
        "violations": [_kept_violation(one) for one in coverage.violations],
        "least_slack": coverage.least_slack,
        "soonest_end": coverage.soonest_end,
        "ending_count": coverage.ending_count,
        "stored_bytes": bytes_present(objects),
        "lock_tail": [[day.isoformat(), size_bytes] for day, size_bytes in tail],
        "remains": to_keep(remains_of_vault(vault)),
    }
    VaultFigures.objects.update_or_create(vault_id=coverage.vault_id, defaults=figures)


def _kept_violation(one: Violation) -> list[str]:
    return [str(one.backup_id), one.key, one.promised_until.isoformat(), one.locked_until.isoformat(), one.reason]


def _read_violation(kept: list[str]) -> Violation:
    backup, key, promised, locked, reason = kept
    return Violation(UUID(backup), key, datetime.fromisoformat(promised), datetime.fromisoformat(locked), reason)


def _catalogue(vault: Vault) -> BackupQuerySet:
    return Backup.objects.in_catalogue().filter(vault=vault, manifest__isnull=False, immutable_until__isnull=False)


def _short_manifests(backups: BackupQuerySet) -> BackupQuerySet:
    gone = ~Q(manifest__status__in=PRESENT)
    return backups.filter(Q(manifest__retain_until__lt=F("immutable_until")) | gone).select_related("manifest")


def _short_uses(vault: Vault) -> QuerySet[ObjectUse]:
    uses = ObjectUse.objects.filter(manifest__backup__in=_catalogue(vault))
    short = Q(needed__retain_until__lt=F("manifest__backup__immutable_until"))
    return uses.filter(short | ~Q(needed__status__in=PRESENT)).select_related("needed", "manifest__backup")


def _of_manifests(backups: BackupQuerySet) -> Iterator[Violation]:
    for backup in backups.order_by("pk")[:LISTED_VIOLATIONS]:
        yield _violation(backup, backup.manifest)


def _of_uses(uses: QuerySet[ObjectUse]) -> Iterator[Violation]:
    for use in uses.order_by("pk")[:LISTED_VIOLATIONS]:
        yield _violation(use.manifest.backup, use.needed)


def _violation(backup: Backup, row: StoredObject) -> Violation:
    there = row.status in PRESENT
    reason = f"locked until {row.retain_until:%Y-%m-%d %H:%M} UTC only" if there else f"it is {row.status}"
    return Violation(backup.pk, row.key, backup.immutable_until, row.retain_until, reason)


def _least_slack(backups: BackupQuerySet) -> timedelta | None:
    facts = backups.order_by().values_list("manifest_id", "immutable_until", "manifest__retain_until")
    promised = {manifest_id: (until, locked) for manifest_id, until, locked in facts}
    named = ObjectUse.objects.filter(manifest__in=backups.order_by().values("manifest_id")).order_by()
    first_ends = dict(
        named.values("manifest_id").annotate(end=Min("needed__retain_until")).values_list("manifest_id", "end")
    )
    slacks = (min(locked, first_ends.get(pk, locked)) - until for pk, (until, locked) in promised.items())
    return min(slacks, default=None)


def _needed_objects(vault: Vault) -> QuerySet[StoredObject]:
    """What backups of the catalogue need, whether their promise still runs or not."""
    naming = ObjectUse.objects.filter(
        needed=OuterRef("pk"), manifest__backup__vault=vault, manifest__backup__removed_at=None
    )
    own = Backup.objects.in_catalogue().filter(vault=vault, manifest=OuterRef("pk"))
    return StoredObject.objects.filter(vault=vault).filter(Exists(naming) | Exists(own))


def _keeper_trouble(vault: Vault) -> str:
    """Ask the store for its time and for the lock that ends next, with the keeper's own credential."""
    row = _needed_objects(vault).filter(status__in=PRESENT, damaged_since=None).order_by("retain_until").first()
    try:
        store_time(vault, Credential.KEEPER)
        if row is not None:
            see_object(vault, key=row.key, version_id=row.version_id)
    except UnavailableError as error:
        return (
            f"The lock-keeper cannot do its work: {error.message} Until it can, no backup becomes good and nothing is "
            "removed; what is promised stays locked."
        )
    return ""


def _settle(vault: Vault, code: str, message: str, *, now: datetime) -> None:
    if message:
        raise_alarm(vault, code=code, message=message, now=now)
    else:
        clear_alarm(vault, code=code, now=now)
