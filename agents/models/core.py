"""How data is reached: nodes, their storages, servers and their disks."""

from __future__ import annotations

from typing import Any

from django.db import models
from django.db.models import Q
from guardian.models import GroupObjectPermissionBase, UserObjectPermissionBase

from common.models import IdentifiedModel
from tenants.models import Tenant
from tenants.querysets import OWN_SERVER, ScopedQuerySet
from vaults.models import Domain, Region


class NodeQuerySet(ScopedQuerySet):
    tenant_path = "tenants"
    many_tenants = True


class Node(IdentifiedModel):
    """A compute or backup node with a Celery worker on its own queue."""

    class Status(models.TextChoices):
        ONLINE = "online", "online"
        OFFLINE = "offline", "offline"
        MAINTENANCE = "maintenance", "maintenance"

    name = models.SlugField(max_length=64, unique=True)
    region = models.ForeignKey(Region, on_delete=models.PROTECT, related_name="nodes")
    is_backup = models.BooleanField(default=True)
    status = models.CharField(max_length=12, choices=Status, default=Status.OFFLINE)
    tenants = models.ManyToManyField(Tenant, blank=True, related_name="nodes")
    last_seen_at = models.DateTimeField(null=True, blank=True)
    # What its worker found: driver -> why it does not work there, empty where it does.
    drivers = models.JSONField(default=dict, blank=True)
    drivers_at = models.DateTimeField(null=True, blank=True)

    objects = NodeQuerySet.as_manager()

    class Meta:
        constraints = [
            models.CheckConstraint(
                condition=Q(status__in=["online", "offline", "maintenance"]), name="node_status_known"
            ),
        ]

    def __str__(self) -> str:
        return self.name

    @property
    def queue(self) -> str:
        """Name of the Celery queue that only this node's workers consume."""
        return f"node.{self.name}"

    @property
    def restore_queue(self) -> str:
        """Name of the queue of its worker for restores alone: people wait for those."""
        return f"{self.queue}.restores"


class WriterKey(models.Model):
    """An Ed25519 public key with which a node, or an agent, signs manifests.

    Kept for ever: old backups are checked with it. A node's is good for its tenants, an agent's for its own server.
    """

    node = models.ForeignKey(Node, on_delete=models.PROTECT, null=True, blank=True, related_name="writer_keys")
    agent = models.ForeignKey(
        "agents.Agent", on_delete=models.CASCADE, null=True, blank=True, related_name="writer_keys"
    )
    public_key = models.BinaryField(unique=True)
    added_at = models.DateTimeField()

    class Meta:
        constraints = [
            models.CheckConstraint(
                condition=Q(node__isnull=False, agent=None) | Q(node=None, agent__isnull=False),
                name="writer_key_of_one",
            )
        ]

    def __str__(self) -> str:
        return f"key {self.pk} of {self.node or self.agent}"


class StorageQuerySet(ScopedQuerySet):
    tenant_path = "tenants"
    many_tenants = True


class Storage(IdentifiedModel):
    """A place on a node that holds disks: here, a directory. Disk images outside of it cannot be named."""

    node = models.ForeignKey(Node, on_delete=models.PROTECT, related_name="storages")
    name = models.SlugField(max_length=64)
    path = models.CharField(max_length=500)
    # Attached one by one: of a node that several tenants share, each sees its own storages.
    tenants = models.ManyToManyField(Tenant, blank=True, related_name="storages")
    # What the node's worker found there: the kind of file system, its space in bytes, and what is wrong with it.
    kind = models.CharField(max_length=32, blank=True)
    total_bytes = models.BigIntegerField(null=True, blank=True)
    free_bytes = models.BigIntegerField(null=True, blank=True)
    problem = models.CharField(max_length=200, blank=True)
    measured_at = models.DateTimeField(null=True, blank=True)
    # Which storage the folder of copies there says it is: the id of this one, or of another node's on the same share.
    seen_mark = models.CharField(max_length=64, blank=True)
    # Set aside for restore drills: backups are restored to scratch files there, compared, and removed.
    for_drills = models.BooleanField(default=False)

    objects = StorageQuerySet.as_manager()

    class Meta:
        constraints = [models.UniqueConstraint(fields=["node", "name"], name="storage_name_once_per_node")]

    def __str__(self) -> str:
        return f"{self.name}@{self.node.name}"


class ServerQuerySet(ScopedQuerySet):
    tenant_path = "tenant"
    grant_path = "user_grants"


class Server(IdentifiedModel):
    """What is protected."""

    name = models.CharField(max_length=128)
    tenant = models.ForeignKey(Tenant, on_delete=models.PROTECT, related_name="servers")
    region = models.ForeignKey(Region, on_delete=models.PROTECT, related_name="servers")
    # None: it has an agent, or waits for one.
    node = models.ForeignKey(Node, on_delete=models.PROTECT, null=True, blank=True, related_name="servers")
    # The node's own name for it, such as the UUID of a domain; empty where the driver knows no servers.
    source_name = models.CharField(max_length=128, blank=True)
    # The dedup domain; made by the signer with the first backup.
    domain = models.OneToOneField(Domain, on_delete=models.PROTECT, null=True, blank=True, related_name="server")

    objects = ServerQuerySet.as_manager()

    class Meta:
        permissions = [(OWN_SERVER, "Owns the server (VmOwner)")]
        constraints = [models.UniqueConstraint(fields=["tenant", "name"], name="server_name_once_per_tenant")]
        indexes = [
            models.Index(fields=["name", "id"], name="server_by_name"),
            models.Index(fields=["created_at", "id"], name="server_by_age"),
            models.Index(fields=["tenant", "created_at", "id"], name="server_of_tenant_by_age"),
        ]

    def __str__(self) -> str:
        return self.name


class ServerUserPermission(UserObjectPermissionBase):
    content_object = models.ForeignKey(Server, on_delete=models.CASCADE, related_name="user_grants")


class ServerGroupPermission(GroupObjectPermissionBase):
    content_object = models.ForeignKey(Server, on_delete=models.CASCADE, related_name="group_grants")


class DiskQuerySet(ScopedQuerySet):
    tenant_path = "tenant"
    grant_path = "server__user_grants"


# The driver of a server that its agent backs up as a whole: one disk, number 1, on no storage.
HOST_DRIVER = "host"


class Disk(IdentifiedModel):
    """A disk of a server, numbered from 1. The driver and the path within the storage say how its data is reached."""

    server = models.ForeignKey(Server, on_delete=models.PROTECT, related_name="disks")
    # The server's. It stands here too, so that the database can refuse a definition or a job on another's disk.
    tenant = models.ForeignKey(Tenant, on_delete=models.PROTECT, related_name="disks")
    number = models.PositiveSmallIntegerField(default=1)
    driver = models.CharField(max_length=32)
    # None for what an agent reaches on its own server.
    storage = models.ForeignKey(Storage, on_delete=models.PROTECT, null=True, blank=True, related_name="disks")
    path = models.CharField(max_length=300)
    size_bytes = models.BigIntegerField()
    # Set while a restore writes to the disk and kept when it did not finish: what is on the disk is then no system.
    incomplete_since = models.DateTimeField(null=True, blank=True)

    objects = DiskQuerySet.as_manager()

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["server", "number"], name="disk_number_once_per_server"),
            models.UniqueConstraint(fields=["storage", "path"], name="disk_path_once_per_storage"),
            models.CheckConstraint(condition=Q(size_bytes__gt=0), name="disk_size_sane"),
            models.CheckConstraint(condition=Q(number__gte=1), name="disk_number_sane"),
            models.CheckConstraint(
                condition=Q(storage__isnull=False) | Q(driver=HOST_DRIVER), name="disk_has_storage_or_agent"
            ),
        ]
        indexes = [
            models.Index(fields=["created_at", "id"], name="disk_by_age"),
            models.Index(fields=["size_bytes", "id"], name="disk_by_size"),
            models.Index(fields=["tenant", "created_at", "id"], name="disk_of_tenant_by_age"),
            models.Index(fields=["tenant", "size_bytes", "id"], name="disk_of_tenant_by_size"),
            models.Index(
                fields=["server"], condition=Q(incomplete_since__isnull=False), name="disk_with_unfinished_restore"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.server.name} disk {self.number}"

    def save(self, *args: Any, **options: Any) -> None:
        if self.tenant_id is None:
            self.tenant_id = self.server.tenant_id
        super().save(*args, **options)
