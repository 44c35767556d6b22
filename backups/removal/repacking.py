"""Repack in the service, without data keys: what is live in mostly dead packs is copied, and the packs are let go.

Only the map key is used: which records are live follows from the signed maps. Order: new packs, relocation
objects, proof (both are read back from the vault, with locks as long as promised), and only then one transaction in
which the manifests need the new in place of the old. From there the old packs go as everything goes. A run that ends
anywhere before leaves objects that no manifest needs, which removal takes after their locks.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from django.conf import settings
from django.db.models import Max, Q, Sum

from backups.models import Backup
from backups.removal.live_records import LiveRecords, find_live
from backups.removal.roots import all_writers, find_roots, manifests_by_domain
from backups.removal.run import is_reconciled
from backups.removal.switching import switch
from engine.compression import Compressor
from engine.repack import RepackContext, RepackSource, repack
from engine.store.base import Buffer, ObjectKind, ObjectRef
from vaults.custody import domain_keys_of
from vaults.locks import LockRule
from vaults.marking import read_body
from vaults.models import Domain, StoredObject, Vault
from vaults.own_objects import NO_SESSION, store_own_object
from vaults.reading import KeeperSource
from vaults.removal_rules import UNCOMMITTED_KEPT
from vaults.storage import Credential, store_time

logger = logging.getLogger(__name__)

# Packs looked at in one run over a domain; how many records of theirs are in memory at once has a bound of its own.
LOOKED_AT = 512
# A restore reads all that concern it, one request each.
MOST_RELOCATIONS = 1000
DAY = timedelta(days=1)
_COMPRESSION_LEVEL = 1
Status = StoredObject.Status


@dataclass(slots=True)
class RepackReport:
    """What a run did. Bytes are of the store."""

    moved_packs: int = 0
    copied_bytes: int = 0
    refused_packs: int = 0


def repack_vault(*, vault_id: str, now: datetime) -> RepackReport | None:
    """One run; None while removal is off. Raises UnavailableError for store trouble, ConflictError for doubt.

    May be broken off anywhere and run again, also twice at once: what is moved already is not moved again.
    """
    vault = Vault.objects.select_related("endpoint").get(pk=vault_id)
    if vault.removal_stopped or not is_reconciled(vault, now):
        return None
    store_now = store_time(vault, Credential.KEEPER)
    roots = find_roots(vault)
    manifests = manifests_by_domain(vault, roots.manifests)
    report = RepackReport()
    for domain in Domain.objects.filter(vault=vault, pk__in=manifests).select_related("vault__endpoint").order_by("pk"):
        budget = settings.CONFIG.repack_bytes_per_day - _copied_since(vault, store_now - DAY)
        if budget > 0 and _relocation_count(domain) < MOST_RELOCATIONS:
            _repack_domain(domain, manifests[domain.pk], report, budget=budget, now=store_now)
    return report


def _copied_since(vault: Vault, since: datetime) -> int:
    own = StoredObject.objects.filter(vault=vault, kind=ObjectKind.PACK, session_id=NO_SESSION, granted_at__gt=since)
    return own.aggregate(total=Sum("size_bytes"))["total"] or 0


def _relocation_count(domain: Domain) -> int:
    return StoredObject.objects.filter(domain=domain, kind=ObjectKind.RELOCATION).exclude(status=Status.DELETED).count()


def _repack_domain(
    domain: Domain, manifests: list[StoredObject], report: RepackReport, *, budget: int, now: datetime
) -> None:
    packs = candidates(domain.pk, manifests, now=now)
    if not packs:
        return
    live = find_live(domain, manifests, packs)
    chosen = choose(packs, live, dead_percent=settings.CONFIG.repack_dead_percent, budget=budget)
    if not chosen:
        return
    source = KeeperSource(domain.vault, versions={pack.key: pack.version_id for pack in chosen})
    needing = {manifest_id for pack in chosen for manifest_id in live.needed_by(pack)}
    until = _locked_until(needing, now=now)
    stored = _Sink(domain, until=until, now=now)
    result = repack(
        [RepackSource(_ref(pack), list(live.records[pack.pk].values())) for pack in chosen],
        object_source=source,
        sink=stored,
        context=_context(domain, live),
        passes_over_bad=True,
    )
    for sha256, error in result.refused.items():
        logger.error("a pack cannot be repacked", extra={"pack": sha256, "code": error.code, "reason": error.message})
    moved = [pack for pack in chosen if pack.sha256 not in result.refused]
    report.refused_packs += len(result.refused)
    report.copied_bytes += result.copied_bytes
    if moved:
        report.moved_packs += switch(domain, moved, live, new=stored.rows, until=until)


def candidates(domain_id: UUID, manifests: Collection[StoredObject], *, now: datetime) -> list[StoredObject]:
    """Packs that may be worth a look: of many, those that manifests need least of for their size, and others in turn.

    Not what an open session may still take up, nor what is damaged or a relocation leads to. And not what is locked for
    longer than `repack_lock_days`: until that lock ends the copy is a cost and no gain.
    """
    rows = StoredObject.objects.filter(
        domain_id=domain_id,
        kind=ObjectKind.PACK,
        status=Status.STORED,
        damaged_since=None,
        granted_at__lte=now - UNCOMMITTED_KEPT,
        retain_until__lte=now + timedelta(days=settings.CONFIG.repack_lock_days),
        used_by__manifest__in=[row.pk for row in manifests],
    )
    rows = rows.exclude(Q(session_id=NO_SESSION) | Q(used_by__manifest__kind=ObjectKind.RELOCATION)).distinct()
    found = list(rows.order_by("granted_at", "pk"))
    if len(found) <= LOOKED_AT:
        return found
    half = LOOKED_AT // 2
    begin = (now - datetime.fromtimestamp(0, now.tzinfo)).days * half % len(found)
    in_turn = (found[begin:] + found[:begin])[:half]
    most_used = _most_used(manifests)
    ranked = sorted(found, key=lambda pack: most_used.get(pack.sha256, 0) / pack.size_bytes)
    return list({pack.pk: pack for pack in (*in_turn, *ranked[:half])}.values())


def _most_used(manifests: Collection[StoredObject]) -> dict[str, int]:
    """By pack the largest number of map entries that one manifest has in it: fewer will not be live."""
    writers = all_writers()
    most: dict[str, int] = {}
    for row in manifests:
        for pack in read_body(row.vault, row, trusted_writers=writers).packs:
            name = pack.sha256.hex()
            most[name] = max(most.get(name, 0), pack.use_count)
    return most


def choose(packs: Iterable[StoredObject], live: LiveRecords, *, dead_percent: int, budget: int) -> list[StoredObject]:
    """Those that are dead enough, the deadest first, as far as the budget (bytes to copy) goes; ordered by age."""
    dead = [(live.live_bytes(pack) / pack.size_bytes, pack) for pack in packs if pack.pk in live.records]
    dead = [(share, pack) for share, pack in dead if (1 - share) * 100 >= dead_percent]
    chosen: list[StoredObject] = []
    for _, pack in sorted(dead, key=lambda item: (item[0], item[1].pk)):
        budget -= live.live_bytes(pack)
        if budget < 0:
            break
        chosen.append(pack)
    # What was written together is likely to die together, and then the new pack is not kept for another's sake.
    return sorted(chosen, key=lambda pack: (pack.granted_at, pack.pk))


def _locked_until(manifest_ids: Collection[int], *, now: datetime) -> datetime:
    """As long as any backup was promised that needs what is moved, or to the end of this generation of locks."""
    backups = Backup.objects.filter(manifest__in=manifest_ids)
    promised = backups.aggregate(latest=Max("immutable_until"))["latest"] or now
    return max(promised, LockRule(promised=timedelta(0)).lock_until(now)) + timedelta(seconds=1)


def _context(domain: Domain, live: LiveRecords) -> RepackContext:
    return RepackContext(
        tenant=str(domain.tenant_id),
        domain=str(domain.pk),
        map_key=domain_keys_of(domain).map_key,
        sessions=live.sessions,
        random_bytes=os.urandom,
        compressor=Compressor(_COMPRESSION_LEVEL),
    )


def _ref(row: StoredObject) -> ObjectRef:
    return ObjectRef(row.key, row.sha256, row.size_bytes, row.version_id)


class _Sink:
    """Stores with the copier's credential, the ledger's row first, and looks at each object's bytes and lock."""

    def __init__(self, domain: Domain, *, until: datetime, now: datetime) -> None:
        self._domain, self._until, self._now = domain, until, now
        self.rows: list[StoredObject] = []

    def put(self, *, key: str, data: Buffer, sha256: str) -> ObjectRef:
        kind = ObjectKind(key.split("/")[4])
        row = store_own_object(
            self._domain, kind=kind, key=key, data=bytes(data), retain_until=self._until, now=self._now
        )
        self.rows.append(row)
        return _ref(row)
