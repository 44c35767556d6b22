"""`rebuild_catalogue`: every row again from bucket and recovery key. Runs by hand, with the keeper's credential."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime

from django.db.models import F

from backups.accounting import recompute
from backups.rebuild.objects import rebuild_domain
from backups.rebuild.places import make_places
from backups.removal.reconcile import STOPPED_BY_US
from engine.alone.bucket import Bucket
from engine.alone.catalogue import open_domain
from engine.alone.layout import find_domains
from engine.errors import EngineError, KeyMismatchError, StoreError
from engine.recovery import RecoveryKey
from vaults.envelopes import record_missing
from vaults.models import Endpoint, Vault
from vaults.storage import Credential

STOPPED = f"{STOPPED_BY_US}the catalogue was made again from the vault; nothing was compared yet."


@dataclass(slots=True)
class RebuildResult:
    domain_count: int = 0
    object_count: int = 0
    backup_count: int = 0
    # Domains that this recovery key does not open: those of other tenants.
    foreign_count: int = 0
    problems: list[str] = field(default_factory=list)


def rebuild_catalogue(
    bucket: Bucket,
    *,
    bucket_name: str,
    endpoint: Endpoint,
    recovery_key: RecoveryKey,
    now: datetime,
    tell: Callable[[str], None] = lambda text: None,
) -> RebuildResult:
    """All domains of the bucket that the recovery key opens. May be broken off and run again; StoreError for trouble.

    Removal in the vault stays stopped until it was reconciled.
    """
    result = RebuildResult()
    for place in find_domains(bucket):
        try:
            found = open_domain(bucket, place, recovery_key)
        except StoreError:
            raise
        except KeyMismatchError:
            result.foreign_count += 1
            continue
        except EngineError as error:
            result.problems.append(f"{place}: {error.message}")
            continue
        places = make_places(
            found, bucket=bucket_name, endpoint=endpoint, recovery_key=recovery_key, stopped=STOPPED, now=now
        )
        done = rebuild_domain(bucket, found, places, now=now)
        record_missing(places.domain, credential=Credential.KEEPER)
        recompute(places.domain.pk)
        result.domain_count += 1
        result.object_count += done.object_count
        result.backup_count += done.backup_count
        result.problems += done.problems
        tell(f"{places.server.name}: {done.backup_count} backups, {done.object_count} objects")
        if places.remark:
            tell(f"{places.server.name}: {places.remark}")
    # Whatever runs on another copy of the database must not take this vault for compared.
    Vault.objects.filter(endpoint=endpoint, bucket=bucket_name).update(epoch=F("epoch") + 1, reconciled_at=None)
    return result
