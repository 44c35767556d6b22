"""What holds objects in a vault: backups in the catalogue, open sessions, restores under way."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from django.db.models import F, Min, Q

from agents.models import WriterKey
from backups.models import Backup, Job, Session
from backups.states import READING, BackupStatus, JobState
from tenants.models import Tenant
from vaults.descriptions import newest_descriptions
from vaults.models import StoredObject, Vault


@dataclass(frozen=True, slots=True)
class Roots:
    """Ids of manifests, of sessions whose own objects stay, and of objects that stay by themselves.

    `catalogued` are the manifests that backups hold. No manifest names a description: each domain's newest one stays.
    """

    catalogued: frozenset[int]
    borrowed: frozenset[int]
    # Of those in either that a restore is reading, as it was told when it began: where things were then.
    restored: frozenset[int]
    open_sessions: frozenset[UUID]
    descriptions: frozenset[int]
    # What a person knows to be bad, and what it names.
    known_bad: frozenset[int] = frozenset()

    @property
    def manifests(self) -> frozenset[int]:
        return self.catalogued | self.borrowed


def open_sessions(vault: Vault) -> list[Session]:
    """Sessions that have their job, whatever their lease says: only losing the job ends their claim on objects."""
    running = Session.objects.filter(job__state=JobState.RUNNING, job__fence=F("fence"))
    return list(running.filter(Q(job__backup__vault=vault) | Q(base__vault=vault)).select_related("base"))


def oldest_open_epoch(vault: Vault) -> int | None:
    """The lowest epoch among the open sessions; one that has not been opened yet can reuse nothing."""
    running = Session.objects.filter(job__state=JobState.RUNNING, job__fence=F("fence"), job__backup__vault=vault)
    return running.aggregate(least=Min("epoch"))["least"]


def find_roots(vault: Vault) -> Roots:
    """Sessions are read before backups: one that commits in between is then found by its backup.

    One that opens in between on a backup that is removed in between is found by neither; its commit takes back what was
    condemned, and a day passes before anything is deleted.
    """
    sessions = open_sessions(vault)
    bases = {session.base.manifest_id for session in sessions if session.base is not None}
    catalogued = Backup.objects.in_catalogue().filter(vault=vault, manifest__isnull=False)
    restores = Job.objects.filter(kind__in=READING, state__in=[JobState.PENDING, JobState.RUNNING], backup__vault=vault)
    restored = set(restores.values_list("backup__manifest_id", flat=True))
    # A status of `restore` holds the backup as well, should a job's row ever disagree.
    held = Backup.objects.filter(vault=vault, status=BackupStatus.RESTORE).values_list("manifest_id", flat=True)
    return Roots(
        catalogued=frozenset(catalogued.values_list("manifest_id", flat=True)),
        borrowed=frozenset({*bases, *restored, *held} - {None}),
        restored=frozenset({*restored, *held} - {None}),
        open_sessions=frozenset(session.pk for session in sessions),
        descriptions=frozenset(_kept_descriptions(vault)),
    )


def _kept_descriptions(vault: Vault) -> set[int]:
    """Each domain's newest one; of a tenant that is being deleted, only as long as there is a backup to describe."""
    newest = newest_descriptions(vault)
    if not Tenant.objects.filter(pk=vault.tenant_id, status=Tenant.Status.DELETING).exists():
        return newest
    described = Backup.objects.in_catalogue().filter(vault=vault, manifest__isnull=False)
    domains = set(described.values_list("manifest__domain", flat=True))
    rows = StoredObject.objects.filter(pk__in=newest, domain__in=domains)
    return set(rows.values_list("pk", flat=True))


def manifests_by_domain(vault: Vault, ids: frozenset[int]) -> dict[UUID, list[StoredObject]]:
    """The rows of the manifests, by domain; all have the vault that is given."""
    found: dict[UUID, list[StoredObject]] = {}
    rows = StoredObject.objects.filter(vault=vault, kind="m")
    for row in rows.iterator(chunk_size=1000):
        if row.pk in ids:
            row.vault = vault
            found.setdefault(row.domain_id, []).append(row)
    return found


def all_writers() -> list[bytes]:
    """Every key that ever signed a manifest: what was committed once stays readable."""
    return [bytes(key) for key in WriterKey.objects.values_list("public_key", flat=True)]
