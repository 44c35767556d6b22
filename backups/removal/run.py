"""One removal run over one vault: mark, condemn, mark again, order the reaper. Runs in the control worker.

May be started by anybody at any time: the epoch lets one run at a time in, and every step can run twice.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from uuid import UUID

from django.db import IntegrityError, transaction
from django.db.models import F

from backups.moved_packs import (
    DomainMoves,
    domains_with_moves,
    moves_of_domain,
    stand_ins_for_backups,
    take_back_fallen,
)
from backups.removal.known_bad import kept_as_known_bad
from backups.removal.roots import Roots, all_writers, find_roots, manifests_by_domain, oldest_open_epoch
from backups.removal.switching import look_at
from common.database_time import database_now
from common.errors import BackupsiteError, UnavailableError
from vaults import ledger
from vaults.alarms import clear_alarm, raise_alarm
from vaults.marking import needed_names, object_name
from vaults.models import Domain, ObjectUse, RelocatedPack, RemovalRun, StoredObject, Vault
from vaults.removal_rules import (
    CAP_PERIOD,
    RECONCILED_WITHIN,
    SKEW,
    Candidate,
    may_be_condemned,
    may_be_deleted,
    within_cap,
)
from vaults.storage import Credential, store_time

logger = logging.getLogger(__name__)

STOPPED_ALARM = "removal_stopped"
NEEDED_ALARM = "condemned_object_needed"
RUN_LOST_AFTER = timedelta(hours=6)
Status = StoredObject.Status


@dataclass(slots=True)
class _Mark:
    """What one mark found, as ids of stored objects."""

    unneeded: set[int] = field(default_factory=set)
    # Condemned by an earlier run and needed now: by a backup (must never happen) or by a session or restore.
    needed_by_backups: set[int] = field(default_factory=set)
    needed_by_others: set[int] = field(default_factory=set)
    candidates: list[Candidate] = field(default_factory=list)
    needed_count: int = 0


def remove_unneeded(*, vault_id: str, now: datetime) -> RemovalRun | None:
    """One run; None when none is due now. Whatever is in doubt stops the run, and nothing is removed.

    `now` is this server's clock; every decision about locks is made by the store's. The clocks of this server, of the
    store and of the database must agree within five minutes: leases of those who still write are counted by the last.
    """
    vault = Vault.objects.select_related("endpoint").get(pk=vault_id)
    if vault.removal_stopped or not is_reconciled(vault, now):
        return None
    run = _begin(vault, now=now)
    if run is None:
        return None
    try:
        store_now = store_time(vault, Credential.KEEPER)
        _refuse_other_database_clock(store_now)
        _take_back_fallen(vault)
        roots = replace(find_roots(vault), known_bad=kept_as_known_bad(vault, now=store_now))
        mark = _mark(vault, roots, now=store_now)
        _look_at_stand_ins(vault, mark, now=store_now)
        _apply(vault, run, mark, now=store_now)
    except BackupsiteError as error:
        _finish(run, outcome=error.code, message=error.message, now=now)
        raise_alarm(vault, code=STOPPED_ALARM, message=f"Nothing was removed. {error.message}", now=now)
        return run
    clear_alarm(vault, code=STOPPED_ALARM, now=now)
    _finish(run, outcome="ok", message="", now=now)
    return run


def _refuse_other_database_clock(store_now: datetime) -> None:
    """`store_time` has compared the store's clock with this server's."""
    told = database_now()
    if abs(told - store_now) > SKEW:
        raise UnavailableError(
            f"The clock of the database ({told:%Y-%m-%d %H:%M} UTC) and the vault's ({store_now:%Y-%m-%d %H:%M} UTC) "
            "differ by more than 5 minutes. Set both by NTP.",
            code="clock_skew",
        )


def is_reconciled(vault: Vault, now: datetime) -> bool:
    """Whether ledger and bucket were found to agree lately: without that nothing is moved or removed."""
    return vault.reconciled_at is not None and vault.reconciled_at + RECONCILED_WITHIN > now


def _begin(vault: Vault, *, now: datetime) -> RemovalRun | None:
    """A new epoch and its run, unless another run is under way."""
    unfinished = RemovalRun.objects.filter(vault=vault, finished_at=None)
    if unfinished.filter(started_at__gt=now - RUN_LOST_AFTER).exists():
        return None
    unfinished.update(finished_at=now, outcome="lost", message="The worker was lost; the next run began anew.")
    try:
        with transaction.atomic():
            taken = Vault.objects.filter(pk=vault.pk, epoch=vault.epoch, removal_stopped="")
            if taken.update(epoch=F("epoch") + 1) != 1:
                return None
            vault.epoch += 1
            return RemovalRun.objects.create(vault=vault, epoch=vault.epoch, started_at=now)
    except IntegrityError:
        return None


def _mark(vault: Vault, roots: Roots, *, now: datetime) -> _Mark:
    mark = _Mark()
    manifests = manifests_by_domain(vault, roots.manifests)
    missing = len(roots.manifests) - sum(len(rows) for rows in manifests.values())
    if missing:
        raise BackupsiteError(f"{missing} manifests of the catalogue are not in the ledger.", code="ledger_incomplete")
    writers = all_writers()
    moving = domains_with_moves(vault)
    for domain_id in Domain.objects.filter(vault=vault).order_by("pk").values_list("pk", flat=True):
        moves = moves_of_domain(domain_id) if domain_id in moving else DomainMoves()
        needs = _needs_of(vault, domain_id, manifests.get(domain_id, []), roots, writers, moves)
        _mark_domain(domain_id, manifests.get(domain_id, []), roots, needs, mark, now)
    return mark


def _mark_domain(
    domain_id: UUID, manifests: list[StoredObject], roots: Roots, needs: _Needs, mark: _Mark, now: datetime
) -> None:
    """Compare what the domain's manifests need, by the vault's word and by the ledger's, with what there is."""
    by_backups, by_others = needs.by_backups, needs.by_others
    used = set(ObjectUse.objects.filter(manifest__in=manifests).values_list("needed_id", flat=True))
    rows = StoredObject.objects.filter(domain_id=domain_id, status__in=[Status.STORED, Status.CONDEMNED])
    found: set[bytes] = set()
    for row in rows.iterator(chunk_size=5000):
        name = object_name(row.kind, bytes.fromhex(row.sha256))
        is_needed = name in by_backups or name in by_others or name in needs.kept or row.pk in used
        if name in by_backups or name in by_others:
            found.add(name)
        mark.needed_count += is_needed
        if is_needed and row.status == Status.CONDEMNED:
            (mark.needed_by_backups if name in by_backups else mark.needed_by_others).add(row.pk)
        elif is_needed:
            continue
        elif not _is_held(row, roots):
            _note_unneeded(mark, row, now)
        elif row.status == Status.CONDEMNED:
            mark.needed_by_others.add(row.pk)
    lacking = len((by_backups | by_others) - found)
    if lacking:
        message = f"{lacking} objects that backups need are not in the ledger, or are being removed."
        raise BackupsiteError(message, code="ledger_incomplete")


@dataclass(slots=True)
class _Needs:
    """Names of what manifests need. `kept`: packs that were moved, and must stay for now all the same."""

    by_backups: set[bytes] = field(default_factory=set)
    by_others: set[bytes] = field(default_factory=set)
    kept: set[bytes] = field(default_factory=set)


def _needs_of(
    vault: Vault,
    domain_id: UUID,
    manifests: list[StoredObject],
    roots: Roots,
    writers: list[bytes],
    moves: DomainMoves,
) -> _Needs:
    """What the manifests name, without the packs that were moved for them: stand-ins are needed in their place.

    A moved pack stays while a restore reads that was told where things were before, and while a stand-in is bad.
    """
    needs = _Needs()
    moved_of_backups: set[bytes] = set()
    moved_of_others: set[bytes] = set()
    for row, names in needed_names(vault, manifests, trusted_writers=writers):
        moved = moves.moved.get(row.pk, set()) & names
        is_catalogued = row.pk in roots.catalogued
        (needs.by_backups if is_catalogued else needs.by_others).update(names - moved)
        (moved_of_backups if is_catalogued else moved_of_others).update(moved)
        needs.kept |= moved if row.pk in roots.restored else moved & moves.fallen.get(row.pk, set())
    if relocations := _moves(domain_id):
        _add_relocations(relocations, needs.by_backups, moved=moved_of_backups)
        _add_relocations(relocations, needs.by_others, moved=moved_of_others)
    return needs


def _add_relocations(moves: dict[int, set[bytes]], names: set[bytes], *, moved: set[bytes]) -> None:
    """A relocation object is needed, with its needs, as long as a pack that it moves is named, needed or not."""
    waiting = set(moves)
    while found := {pk for pk in waiting if not (moves[pk].isdisjoint(names) and moves[pk].isdisjoint(moved))}:
        waiting -= found
        uses = StoredObject.objects.filter(used_by__manifest__in=found) | StoredObject.objects.filter(pk__in=found)
        names.update(object_name(kind, bytes.fromhex(sha256)) for kind, sha256 in uses.values_list("kind", "sha256"))


def _moves(domain_id: UUID) -> dict[int, set[bytes]]:
    """Per relocation object the names of the packs that it moves."""
    present = [Status.STORED, Status.CONDEMNED]
    rows = RelocatedPack.objects.filter(relocation__domain_id=domain_id, relocation__status__in=present)
    moves: dict[int, set[bytes]] = {}
    for relocation_id, kind, sha256 in rows.values_list("relocation_id", "pack__kind", "pack__sha256"):
        moves.setdefault(relocation_id, set()).add(object_name(kind, bytes.fromhex(sha256)))
    return moves


def _is_held(row: StoredObject, roots: Roots) -> bool:
    """An open session holds what it has stored itself, a domain the newest word about itself, a person what is bad."""
    return row.session_id in roots.open_sessions or row.pk in roots.descriptions or row.pk in roots.known_bad


def _note_unneeded(mark: _Mark, row: StoredObject, now: datetime) -> None:
    if row.status == Status.STORED:
        if may_be_condemned(granted_at=row.granted_at, now=now):
            mark.unneeded.add(row.pk)
    elif row.condemned_epoch is not None and row.condemned_at is not None:
        mark.candidates.append(
            Candidate(row.pk, row.size_bytes, row.condemned_epoch, row.condemned_at, row.retain_until)
        )


def _take_back_fallen(vault: Vault) -> None:
    for domain_id in sorted(domains_with_moves(vault)):
        if taken := take_back_fallen(domain_id):
            logger.warning("moved packs are needed again", extra={"domain": str(domain_id), "packs": taken})


def _look_at_stand_ins(vault: Vault, mark: _Mark, *, now: datetime) -> None:
    """Before a pack goes that was moved for a backup: what stands in for it is in the vault now, with its lock.

    Raises UnverifiedObjectError or UnavailableError; then nothing is condemned and nothing ordered.
    """
    for row, promised in stand_ins_for_backups(mark.unneeded | {candidate.id for candidate in mark.candidates}):
        look_at(vault, row, until=min(promised, row.retain_until) if promised > now else None)


def _apply(vault: Vault, run: RemovalRun, mark: _Mark, *, now: datetime) -> None:
    run.needed_objects = mark.needed_count
    run.revived_objects = ledger.revive(mark.needed_by_backups | mark.needed_by_others)
    if mark.needed_by_backups:
        message = f"{len(mark.needed_by_backups)} objects were condemned although backups need them; they were kept."
        raise_alarm(vault, code=NEEDED_ALARM, message=message, now=now)
    # A commit during the mark may have named what no backup needed before.
    unneeded = mark.unneeded - _named_by_backups(mark.unneeded)
    run.condemned_objects = ledger.condemn(unneeded, epoch=run.epoch, now=now)
    _order(vault, run, mark.candidates, now=now)


def _named_by_backups(ids: set[int]) -> set[int]:
    ordered, named = sorted(ids), set[int]()
    for start in range(0, len(ordered), 500):
        uses = ObjectUse.objects.filter(needed_id__in=ordered[start : start + 500], manifest__backup__isnull=False)
        named.update(uses.filter(manifest__backup__removed_at=None).values_list("needed_id", flat=True))
    return named


def _order(vault: Vault, run: RemovalRun, candidates: list[Candidate], *, now: datetime) -> None:
    """Give the reaper what is due, within the cap; a manifest goes a run before what it names."""
    oldest = oldest_open_epoch(vault) if candidates else None
    due = [
        candidate
        for candidate in candidates
        if may_be_deleted(candidate, epoch=run.epoch, oldest_open_epoch=oldest, now=now)
    ]
    if not due:
        return
    named = ledger.still_named([candidate.id for candidate in due])
    free = (candidate for candidate in due if candidate.id not in named)
    total_objects, total_bytes = ledger.totals(vault, now - CAP_PERIOD)
    ordered_objects, ordered_bytes = ledger.ordered_since(vault, now - CAP_PERIOD)
    within = within_cap(
        free,
        total_objects=total_objects,
        total_bytes=total_bytes,
        ordered_objects=ordered_objects,
        ordered_bytes=ordered_bytes,
    )
    sizes = {candidate.id: candidate.size_bytes for candidate in within}
    ordered = ledger.order_removal(run, list(sizes), now=now)
    run.deleting_objects = len(ordered)
    run.deleting_bytes = sum(sizes[pk] for pk in ordered)


def _finish(run: RemovalRun, *, outcome: str, message: str, now: datetime) -> None:
    run.outcome, run.message, run.finished_at = outcome, message, now
    run.save()
    logger.info("removal run", extra={"vault": str(run.vault_id), "outcome": outcome, "deleting": run.deleting_objects})
