"""Jobs with their events and sessions, and the backups that came of them."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from django.db import models
from django.db.models import F, Q

from agents.models import Disk, Node, Server, Storage
from backups.agent_models import AskedRestore
from backups.budget_models import Budget
from backups.copy_models import StrayCopy
from backups.figure_models import DayFigures, NodeFigures, NodeShareFigures, TenantFigures, VaultFigures
from backups.lost_claims import Losses, after_loss
from backups.reasons import in_words
from backups.states import (
    ACTIVE,
    BACKUP_STATUS_CHOICES,
    HEALTH_CHOICES,
    JOB_KIND_CHOICES,
    JOB_STATE_CHOICES,
    BackupHealth,
    BackupStatus,
    JobKind,
    JobState,
)
from common.models import IdentifiedModel
from definitions.models import Definition
from engine.manifest import CONTENT_DISK
from tenants.models import Person, Tenant
from tenants.querysets import ScopedQuerySet
from vaults.models import StoredObject, Vault

__all__ = [
    "AskedRestore",
    "Backup",
    "Budget",
    "DayFigures",
    "DefinitionStanding",
    "Job",
    "JobEvent",
    "JobQuerySet",
    "NodeFigures",
    "NodeShareFigures",
    "Session",
    "StrayCopy",
    "TenantFigures",
    "VaultFigures",
    "live_sessions",
]


class BackupQuerySet(ScopedQuerySet):
    tenant_path = "tenant"
    grant_path = "server__user_grants"

    def in_catalogue(self) -> BackupQuerySet:
        """Those that were not removed by retention or by a person."""
        return self.filter(removed_at=None)


class Backup(IdentifiedModel):
    """One point in time of one disk. It outlives its server and its definition. Sizes in bytes."""

    tenant = models.ForeignKey(Tenant, on_delete=models.PROTECT, related_name="backups")
    # Where it lies: a Vault backup in a vault, a Dataset or File backup on a storage of a backup node.
    # Its index is `backup_of_vault`.
    vault = models.ForeignKey(
        Vault, on_delete=models.PROTECT, null=True, blank=True, related_name="backups", db_index=False
    )
    storage = models.ForeignKey(Storage, on_delete=models.PROTECT, null=True, blank=True, related_name="backups")
    # Of a copy on a storage: its path there, or `dataset@snapshot`; how its stream is packed; the file's SHA-256; and
    # when it was removed from the storage, after it had left the catalogue.
    place = models.CharField(max_length=400, blank=True)
    compression = models.CharField(max_length=8, blank=True)
    sha256 = models.CharField(max_length=64, blank=True)
    erased_at = models.DateTimeField(null=True, blank=True)
    server = models.ForeignKey(Server, on_delete=models.SET_NULL, null=True, related_name="backups")
    disk = models.ForeignKey(Disk, on_delete=models.SET_NULL, null=True, related_name="backups")
    definition = models.ForeignKey(Definition, on_delete=models.SET_NULL, null=True, related_name="backups")
    node = models.ForeignKey(Node, on_delete=models.SET_NULL, null=True, related_name="backups")
    name = models.CharField(max_length=40)
    server_name = models.CharField(max_length=128)
    disk_number = models.PositiveSmallIntegerField()
    type = models.CharField(max_length=8, default="vault")
    # What it holds: a disk image, a file tree or a byte stream (engine.manifest). Of a tree, how many files,
    # directories, symlinks, hard_links and specials there are, and how many entries were changed or unchanged.
    content = models.CharField(max_length=8, default=CONTENT_DISK)
    counts = models.JSONField(default=dict, blank=True)
    status = models.CharField(max_length=8, choices=BACKUP_STATUS_CHOICES, default=BackupStatus.PENDING)
    # Backups of one server that were started together carry the same.
    run_id = models.UUIDField(null=True, blank=True)
    frozen = models.BooleanField(default=False)
    # What the driver left on the node for the next backup to read against; empty for a driver that cannot.
    point = models.CharField(max_length=80, blank=True)
    # A stable code for why everything was read although the driver can tell what changed; empty when it was not so.
    full_reason = models.CharField(max_length=64, blank=True)
    # The server's own description is in the sealed part of the manifest: a new server can be defined of it.
    has_configuration = models.BooleanField(default=False)
    # What did not stop the backup: a list of {"code", "message"}.
    warnings = models.JSONField(default=list, blank=True)
    note = models.CharField(max_length=255, blank=True)
    # The time of the schedule that this backup belongs to; None when a person started it.
    slot_at = models.DateTimeField(null=True, blank=True)
    finished_at = models.DateTimeField(null=True, blank=True)
    duration_seconds = models.PositiveIntegerField(null=True, blank=True)
    size_bytes = models.BigIntegerField()
    read_bytes = models.BigIntegerField(null=True, blank=True)
    changed_bytes = models.BigIntegerField(null=True, blank=True)
    stored_bytes = models.BigIntegerField(null=True, blank=True)
    sequence = models.PositiveBigIntegerField(null=True, blank=True)
    manifest = models.OneToOneField(
        StoredObject, on_delete=models.PROTECT, null=True, blank=True, related_name="backup"
    )
    immutable_until = models.DateTimeField(null=True, blank=True)
    # What the checks of the stored objects found; apart from the status, which says what a person can do with it.
    health = models.CharField(max_length=10, choices=HEALTH_CHOICES, default=BackupHealth.UNVERIFIED)
    verified_at = models.DateTimeField(null=True, blank=True)
    # When it was restored for real, to a scratch file, and compared.
    drilled_at = models.DateTimeField(null=True, blank=True)
    # What cannot be read now: ranges [offset, length] in bytes of a disk or stream, objects that each name a file of a
    # tree (see backups.lost_ranges); cut to a bounded list, the total beside it.
    damage = models.JSONField(default=list, blank=True)
    damaged_bytes = models.BigIntegerField(default=0)
    # Bytes in the vault that only this backup needs, and those that others need as well.
    unique_bytes = models.BigIntegerField(default=0)
    shared_bytes = models.BigIntegerField(default=0)
    # Set when retention or a person took it out of the catalogue; its bytes stay locked until later.
    removed_at = models.DateTimeField(null=True, blank=True)

    objects = BackupQuerySet.as_manager()

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["disk", "sequence"], name="backup_sequence_once_per_disk"),
            models.CheckConstraint(
                condition=Q(status="pending") | Q(manifest__isnull=False) | Q(storage__isnull=False) & ~Q(place=""),
                name="backup_done_has_manifest",
            ),
            models.CheckConstraint(
                condition=Q(type="vault", vault__isnull=False, storage=None)
                | Q(type__in=["dataset", "file"], vault=None, manifest=None, storage__isnull=False),
                name="backup_place_by_type",
            ),
            models.UniqueConstraint(
                fields=["storage", "place"], condition=~Q(place="") & Q(erased_at=None), name="backup_place_once"
            ),
            models.CheckConstraint(
                condition=Q(status__in=["pending", "ok", "restore", "lost"]), name="backup_status_known"
            ),
            models.CheckConstraint(condition=Q(content__in=["disk", "tree", "stream"]), name="backup_content_known"),
            models.CheckConstraint(
                condition=Q(health__in=["unverified", "verified", "damaged", "missing"]), name="backup_health_known"
            ),
        ]
        indexes = [
            # Each list walks the index of its order and stops after a page: of everything, of a tenant, of a server.
            models.Index(fields=["created_at", "id"], name="backup_by_age"),
            models.Index(fields=["tenant", "-created_at", "-id"], name="backup_of_tenant"),
            models.Index(fields=["server", "-created_at", "-id"], name="backup_of_server"),
            models.Index(fields=["size_bytes", "id"], name="backup_by_size"),
            models.Index(fields=["tenant", "size_bytes", "id"], name="backup_of_tenant_by_size"),
            # What is rare and looked for.
            models.Index(
                fields=["-created_at", "-id"],
                condition=Q(status__in=["pending", "restore", "lost"]),
                name="backup_not_ok",
            ),
            models.Index(
                fields=["-created_at", "-id"], condition=Q(health__in=["damaged", "missing"]), name="backup_damaged"
            ),
            models.Index(
                fields=["-created_at", "-id"], condition=Q(type__in=["dataset", "file"]), name="backup_on_storage"
            ),
            models.Index(fields=["disk", "-sequence"], name="backup_of_disk"),
            # With the tenant: whose backups else lie in a vault is asked before it may go.
            models.Index(fields=["vault", "tenant"], name="backup_of_vault"),
            # A tenant with a million backups in its vault may have few on storages: they are summed for its quota.
            models.Index(
                fields=["tenant"], condition=Q(storage__isnull=False, erased_at=None), name="backup_copy_of_tenant"
            ),
        ]

    def __str__(self) -> str:
        return self.name

    @property
    def damaged_ranges(self) -> list[list[int]]:
        return [item for item in self.damage if isinstance(item, list)]

    @property
    def damaged_files(self) -> list[dict[str, Any]]:
        return [item for item in self.damage if isinstance(item, dict)]

    @property
    def full_because(self) -> str:
        """The end of "Full, because ..."; empty when only what changed was read, or the driver cannot tell."""
        return in_words(self.full_reason) if self.full_reason else ""

    @property
    def checksum(self) -> str:
        """SHA-256 of the manifest, which covers the whole content; of a File backup, that of its file."""
        return self.manifest.sha256 if self.manifest_id else self.sha256

    @property
    def is_copy(self) -> bool:
        """On a storage of a backup node, in no vault."""
        return self.storage_id is not None


class JobQuerySet(ScopedQuerySet):
    tenant_path = "tenant"
    grant_path = "disk__server__user_grants"

    def active(self) -> JobQuerySet:
        return self.filter(state__in=list(ACTIVE))


class Job(IdentifiedModel):
    """Work on one disk, or the check of one backup. The row is the truth; a broker message is only a hint at it."""

    kind = models.CharField(max_length=8, choices=JOB_KIND_CHOICES)
    state = models.CharField(max_length=8, choices=JOB_STATE_CHOICES, default=JobState.PENDING)
    tenant = models.ForeignKey(Tenant, on_delete=models.PROTECT, related_name="jobs")
    # The disk that the work is on: the source of a backup, the target of a restore. A check touches no disk and needs
    # no node: it carries the disk that its backup was made of, as long as there is one. So does a served backup.
    disk = models.ForeignKey(Disk, on_delete=models.PROTECT, null=True, blank=True, related_name="jobs")
    node = models.ForeignKey(Node, on_delete=models.PROTECT, null=True, blank=True, related_name="jobs")
    definition = models.ForeignKey(Definition, on_delete=models.SET_NULL, null=True, blank=True, related_name="jobs")
    backup = models.ForeignKey(Backup, on_delete=models.SET_NULL, null=True, blank=True, related_name="jobs")
    backup_name = models.CharField(max_length=40)
    requested_by = models.ForeignKey(Person, on_delete=models.SET_NULL, null=True, blank=True, related_name="jobs")
    slot_at = models.DateTimeField(null=True, blank=True)
    phase = models.CharField(max_length=24, blank=True)
    done_bytes = models.BigIntegerField(default=0)
    total_bytes = models.BigIntegerField(default=0)
    stored_bytes = models.BigIntegerField(default=0)
    code = models.CharField(max_length=64, blank=True)
    message = models.TextField(blank=True)
    cancel_requested = models.BooleanField(default=False)
    # Who has the job: the number grows with each claim, and a worker with an older one can change nothing.
    fence = models.PositiveIntegerField(default=0)
    lease_until = models.DateTimeField(null=True, blank=True)
    # Claims that were lost one after another without getting further, and how far the furthest of the lost ones was.
    lost_in_vain = models.PositiveSmallIntegerField(default=0)
    furthest_bytes = models.BigIntegerField(default=0)
    hinted_at = models.DateTimeField(null=True, blank=True)
    started_at = models.DateTimeField(null=True, blank=True)
    finished_at = models.DateTimeField(null=True, blank=True)
    mover_wall_seconds = models.FloatField(null=True, blank=True)
    mover_cpu_seconds = models.FloatField(null=True, blank=True)
    mover_peak_memory_bytes = models.BigIntegerField(null=True, blank=True)
    # Which of a node's waiting jobs goes first: the greater, the sooner (`states.Priority`).
    priority = models.PositiveSmallIntegerField(default=1)
    # Why a waiting job is not begun, in words; empty when it only waits for a worker.
    waits = models.CharField(max_length=200, blank=True)
    # A retry is a new job of the same time; it is not begun before `not_before`.
    retry_of = models.OneToOneField("self", on_delete=models.SET_NULL, null=True, blank=True, related_name="retry")
    attempt = models.PositiveSmallIntegerField(default=0)
    not_before = models.DateTimeField(null=True, blank=True)
    # Jobs of one server that are to be of one moment: a worker claims them together.
    run_id = models.UUIDField(null=True, blank=True)
    # Of a restore: make the disk on its node, and define a server of this name from what the backup kept of the old.
    creates_disk = models.BooleanField(default=False)
    new_server = models.CharField(max_length=128, blank=True)
    # Of a check that is a restore drill: where the scratch file is made.
    drill_storage = models.ForeignKey(Storage, on_delete=models.SET_NULL, null=True, blank=True, related_name="drills")
    # How long a backup is served, from its first claim on.
    serve_seconds = models.PositiveIntegerField(null=True, blank=True)
    # The snapshot of what was on the target before, where the storage can; and what a person should know.
    safety_point = models.CharField(max_length=80, blank=True)
    warnings = models.JSONField(default=list, blank=True)
    # Of a restore of files: what of them, and where to (backups.file_restores); empty: all, in the place of the target.
    files = models.JSONField(default=dict, blank=True)
    # What the budgets gave it when it was claimed, in bytes per second; None: no limit of theirs.
    granted_bandwidth = models.PositiveBigIntegerField(null=True, blank=True)

    objects = JobQuerySet.as_manager()

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["disk"],
                condition=Q(state="running") & ~Q(kind__in=["verify", "serve"]),
                name="job_one_running_per_disk",
            ),
            models.UniqueConstraint(
                fields=["backup"],
                condition=Q(kind="verify", state__in=["pending", "running"]),
                name="job_one_check_per_backup",
            ),
            models.CheckConstraint(
                # Without a node: of a server with an agent, which asks for it.
                condition=Q(kind="verify") | Q(kind="serve", node__isnull=False) | Q(disk__isnull=False),
                name="job_has_disk",
            ),
            models.UniqueConstraint(fields=["definition", "slot_at", "attempt"], name="job_once_per_slot"),
            models.CheckConstraint(
                condition=~Q(state="running") | Q(lease_until__isnull=False), name="job_running_has_lease"
            ),
            models.CheckConstraint(
                condition=Q(state__in=["pending", "running", "ok", "failed", "canceled"]), name="job_state_known"
            ),
        ]
        indexes = [
            models.Index(
                fields=["state", "hinted_at"], condition=Q(state__in=["pending", "running"]), name="job_active"
            ),
            models.Index(fields=["tenant", "-created_at", "-id"], name="job_of_tenant"),
            models.Index(fields=["disk", "-created_at", "-id"], name="job_of_disk"),
            models.Index(
                fields=["-created_at", "-id"], condition=Q(state__in=["failed", "canceled"]), name="job_not_ok"
            ),
            models.Index(
                fields=["kind", "-created_at", "-id"],
                condition=Q(kind__in=["restore", "verify"]),
                name="job_no_backup",
            ),
            models.Index(
                fields=["tenant", "kind", "-created_at", "-id"],
                condition=Q(kind__in=["restore", "verify"]),
                name="job_no_backup_of_tenant",
            ),
            models.Index(fields=["created_at", "id"], name="job_by_age"),
            models.Index(
                fields=["node", "-priority", "tenant", "created_at"],
                condition=Q(state="pending"),
                name="job_waiting_on_node",
            ),
            models.Index(fields=["node", "-started_at"], name="job_begun_on_node_lately"),
            models.Index(
                fields=["run_id"],
                condition=Q(state__in=["pending", "running"], run_id__isnull=False),
                name="job_of_run",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.kind} {self.backup_name}"

    def is_active(self) -> bool:
        return self.state in ACTIVE

    def with_loss(self) -> Losses:
        """Of a running job, whose last claim was lost. Packs in a vault are gone on with, and nothing else is."""
        is_kept = self.kind == JobKind.BACKUP and self.backup is not None and self.backup.vault_id is not None
        before = Losses(self.fence, self.lost_in_vain, self.furthest_bytes)
        return after_loss(before, done_bytes=self.done_bytes, kept_bytes=self.stored_bytes if is_kept else 0)

    @property
    def replaces_target(self) -> bool:
        """Whether a restore changes all of its target; until it is done there is nothing on it to back up."""
        return not self.files.get("folder") and not self.files.get("paths")

    def percent(self) -> int | None:
        """0 to 100, or None while the whole is not known."""
        return min(100, self.done_bytes * 100 // self.total_bytes) if self.total_bytes else None


class DefinitionStanding(models.Model):
    """What was found of a definition when it was looked at last, and when something may be different.

    `told` are the alerts that stand: people heard of each once, and hear when it is over.
    """

    definition = models.OneToOneField(Definition, on_delete=models.CASCADE, primary_key=True, related_name="standing")
    state = models.CharField(max_length=12)
    sentence = models.TextField(blank=True)
    told = models.JSONField(default=list, blank=True)
    looked_at = models.DateTimeField()
    look_again_at = models.DateTimeField()

    class Meta:
        indexes = [
            models.Index(fields=["look_again_at"], name="standing_due"),
            # What is found against definitions is rare and looked for.
            models.Index(fields=["state"], condition=~Q(state__in=["protected", "inactive"]), name="standing_not_fine"),
        ]

    def __str__(self) -> str:
        return f"{self.state}: {self.definition_id}"


class JobEvent(models.Model):
    """Something that happened to a job; written in the transaction of the change."""

    job = models.ForeignKey(Job, on_delete=models.CASCADE, related_name="events")
    at = models.DateTimeField()
    code = models.CharField(max_length=64)
    message = models.TextField(blank=True)

    class Meta:
        indexes = [models.Index(fields=["job", "id"], name="job_event_of_job")]

    def __str__(self) -> str:
        return f"{self.at:%Y-%m-%d %H:%M:%S} {self.code}"


class Session(IdentifiedModel):
    """The right of one claim of a job to move data: a token, and what it opened with."""

    job = models.ForeignKey(Job, on_delete=models.CASCADE, related_name="sessions")
    fence = models.PositiveIntegerField()
    token_hash = models.CharField(max_length=64, unique=True)
    # Locks of everything written in this session end then; from the store's clock when the session was opened.
    retain_until = models.DateTimeField(null=True, blank=True)
    sequence = models.PositiveBigIntegerField(null=True, blank=True)
    base = models.ForeignKey(Backup, on_delete=models.SET_NULL, null=True, blank=True, related_name="based_sessions")
    # How the point that this session leaves on the node is named; sessions that were claimed together share it.
    new_point = models.CharField(max_length=80, blank=True)
    # Why the control plane knows of no point to read against, when it does not.
    full_reason = models.CharField(max_length=64, blank=True)
    # The writer's claim, kept until the committer has looked at every object itself.
    commit_request = models.JSONField(null=True, blank=True)
    commit_requested_at = models.DateTimeField(null=True, blank=True)
    granted_bytes = models.BigIntegerField(default=0)
    granted_objects = models.PositiveIntegerField(default=0)
    # The vault's epoch when the session was opened: nothing it may reuse is removed while it is open.
    epoch = models.PositiveBigIntegerField(null=True, blank=True)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["job", "fence"], name="session_once_per_claim")]

    def __str__(self) -> str:
        return f"session {self.id}"

    def is_live(self, now: datetime) -> bool:
        """Whether the session still has its job: same fence, running, lease not over."""
        job = self.job
        return (
            job.state == JobState.RUNNING
            and job.fence == self.fence
            and job.lease_until is not None
            and job.lease_until > now
        )


def live_sessions(now: datetime) -> models.QuerySet[Session]:
    """Sessions that still have their job, for conditional statements."""
    return Session.objects.filter(job__state=JobState.RUNNING, job__fence=F("fence"), job__lease_until__gt=now)
