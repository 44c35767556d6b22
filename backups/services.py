"""Verbs over backups and jobs that interfaces call. Objects were fetched for the person already, by `get_for_user`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from datetime import datetime
from uuid import UUID

from django.db import transaction

from agents.access import owners_of
from agents.drivers.registry import content_of
from agents.models import Disk, Node, Server, Storage
from backups.catalogue import take_out
from backups.copies.places import nodes_that_see
from backups.file_restores import WHOLE, FileWish, file_refusal, what_is_lost
from backups.models import Backup, Job
from backups.outside import restore_command
from backups.queue import announce_restore, create_backup_job
from backups.states import BackupStatus, JobKind, JobState, Priority
from backups.transitions import end_job, note_event
from common.confirming import refuse_unconfirmed
from common.errors import BackupsiteError, ConflictError, InvalidInputError
from common.ids import new_id
from definitions.models import Definition
from engine.manifest import CONTENT_DISK, CONTENT_STREAM, CONTENT_TREE
from tenants import approvals, quotas
from tenants.approval_states import ApprovalKind
from tenants.audit import record, record_change
from tenants.models import Person, QuotaKind, Tenant
from tenants.roles import Action
from tenants.services import require_active
from vaults.custody import restore_needs_customer_key
from vaults.models import Vault
from vaults.services import refuse_leaving

_WORDS_OF_CONTENT = {CONTENT_DISK: "a disk image", CONTENT_TREE: "files", CONTENT_STREAM: "a stream of data"}


def request_backup(*, definition: Definition, actor: Person, now: datetime) -> Job:
    """Backup now. When the disk is busy the job waits its turn. Raises QuotaError when there is no room for more."""
    require_active(definition.tenant)
    refuse_unready(definition)
    _require_room(definition.tenant)
    return create_backup_job(definition=definition, now=now, slot_at=None, requested_by=actor)


@transaction.atomic
def request_server_backup(*, server: Server, actor: Person, now: datetime) -> list[Job]:
    """Back up all disks that have an active definition, as one run: of one moment, where the driver can do that.

    Each by the definition that is due next, and only where the actor may run it. ConflictError when there is none.
    """
    runnable = Definition.objects.for_user(actor, Action.RUN).filter(disk__server=server, active=True)
    chosen: dict[UUID, Definition] = {}
    for definition in runnable.select_related("disk__server", "vault", "tenant").order_by("next_run_at", "pk"):
        chosen.setdefault(definition.disk_id, definition)
    if not chosen:
        message = f"No active definition protects a disk of {server.name}. Make one, or resume one."
        raise ConflictError(message, code="nothing_to_back_up")
    for definition in chosen.values():
        require_active(definition.tenant)
        refuse_unready(definition)
    _require_room(server.tenant)
    run_id = new_id()
    return [
        create_backup_job(definition=definition, now=now, slot_at=None, requested_by=actor, run_id=run_id)
        for definition in sorted(chosen.values(), key=lambda one: one.disk.number)
    ]


def refuse_unready(definition: Definition) -> None:
    """Say at once what would fail later anyway."""
    if definition.vault is not None:
        _refuse_vault(definition.vault)
    elif definition.backup_node is not None and definition.backup_node.status == Node.Status.MAINTENANCE:
        raise ConflictError(f"The node {definition.backup_node.name} is in maintenance.", code="node_in_maintenance")
    if definition.disk.incomplete_since is not None:
        raise ConflictError(
            f"{definition.disk} holds an unfinished restore: nothing to back up. Finish a restore onto it first.",
            code="disk_incomplete",
        )


def _require_room(tenant: Tenant) -> None:
    """It is asked again when the job begins; who asks by hand learns it at once."""
    with transaction.atomic():
        quotas.check_room(tenant=tenant, kind=QuotaKind.BYTES)


def _refuse_vault(vault: Vault) -> None:
    if vault.status != Vault.Status.READY:
        reason = vault.refusal or "It is still being made; try again in a minute."
        raise ConflictError(f"The vault {vault.name} is not ready. {reason}", code="vault_not_ready")
    refuse_leaving(vault)


@transaction.atomic
def request_restore(
    *, backup: Backup, target: Disk, actor: Person, now: datetime, confirmation: str = "", files: FileWish = WHOLE
) -> Job:
    """Restore the backup onto the target disk. Everything on the target is lost; `confirmation` is its server's name.

    Of a backup of files `files` says which and where to; into a new folder nothing is lost and nothing is confirmed.
    Refused before anything is written: a backup that is not good, a target that is too small or has a restore already,
    a wrong confirmation.
    """
    files = files.check()
    _hold_places(backup, target)
    refuse_restore(backup=backup, target=target, files=files)
    if not files.folder:
        lost = what_is_lost(target, files, content=backup.content)
        refuse_unconfirmed(confirmation, name=target.server.name, of="its server", lost=lost)
    parameters = {"target": str(target.pk), **files.as_json()}
    ask_other_owners(backup, target.server, actor=actor, now=now, parameters=parameters)
    job = Job.objects.create(
        kind=JobKind.RESTORE,
        tenant_id=target.server.tenant_id,
        disk=target,
        node=reader_of(backup, target),
        backup=backup,
        backup_name=backup.name,
        requested_by=actor,
        total_bytes=backup.size_bytes,
        priority=Priority.RESTORE,
        files=files.as_json(),
    )
    announce_restore(job, now=now)
    return job


def ask_other_owners(
    backup: Backup, server: Server, *, actor: Person, now: datetime, parameters: Mapping[str, str]
) -> None:
    """Data that other people would get to see may need a second person. A server that is gone had other owners."""
    if reaches_others(backup, server):
        kind = ApprovalKind.RESTORE_ACROSS_OWNERS
        approvals.require(kind=kind, subject=backup, actor=actor, parameters=parameters, now=now)


def crosses_owners(*, backup: Backup, target: Disk) -> bool:
    """Whether other people than before would get to see the data."""
    return reaches_others(backup, target.server)


def reaches_others(backup: Backup, server: Server) -> bool:
    """The same of any disk of the server."""
    source = backup.server
    return source is None or (source.pk != server.pk and not _owned_alike(source, server))


def _owned_alike(source: Server, target: Server) -> bool:
    return source.tenant_id == target.tenant_id and owners_of(source) == owners_of(target)


def _hold_places(backup: Backup, target: Disk) -> None:
    """Neither moves to another tenant before the job is there."""
    server = Server.objects.select_for_update(no_key=True).get(pk=target.server_id)
    tenant_id = (
        Backup.objects.select_for_update(of=("self",), no_key=True).values_list("tenant_id").get(pk=backup.pk)[0]
    )
    if server.tenant_id != target.server.tenant_id or tenant_id != backup.tenant_id:
        raise ConflictError("The server was moved to another tenant meanwhile. Look again.", code="changed_meanwhile")


def refuse_restore(*, backup: Backup, target: Disk, files: FileWish = WHOLE) -> None:
    """Raise for what forbids this restore whatever the person confirms."""
    busy = Job.objects.active().filter(disk=target, kind=JobKind.RESTORE).exists()
    readers = nodes_that_see(backup.storage)
    error = _key_refusal(backup) or _restore_refusal(backup=backup, target=target, busy=busy, readers=readers)
    error = error or file_refusal(backup, target, files)
    if error is not None:
        raise error


def restore_choices(
    *, backup: Backup, targets: Iterable[Disk], files: FileWish = WHOLE
) -> list[tuple[Disk, BackupsiteError | None]]:
    """Each target with what forbids a restore onto it, or None; one query, however many targets."""
    chosen = list(targets)
    under_way = Job.objects.active().filter(disk__in=chosen, kind=JobKind.RESTORE)
    busy = set(under_way.values_list("disk_id", flat=True))
    locked, readers = _key_refusal(backup), nodes_that_see(backup.storage)
    return [
        (
            target,
            locked
            or _restore_refusal(backup=backup, target=target, busy=target.pk in busy, readers=readers)
            or file_refusal(backup, target, files),
        )
        for target in chosen
    ]


def _key_refusal(backup: Backup) -> BackupsiteError | None:
    """The service cannot open what is sealed to a customer's own key."""
    if backup.manifest is None or not restore_needs_customer_key(backup.manifest):
        return None
    message = (
        f"Only the customer's own recovery key opens the backup {backup.name}. "
        f"Restore it with the stand-alone tool: {restore_command(backup)}"
    )
    return ConflictError(message, code="customer_key_needed")


def refuse_source(backup: Backup) -> None:
    """Raise for what forbids any restore of the backup to a new disk."""
    error = _key_refusal(backup) or _source_refusal(backup)
    if error is not None:
        raise error


def _source_refusal(backup: Backup) -> BackupsiteError | None:
    if backup.removed_at is not None or backup.status not in {BackupStatus.OK, BackupStatus.RESTORE}:
        message = f"The backup {backup.name} cannot be restored: it is {shown_status(backup)}."
        return ConflictError(message, code="backup_not_ok")
    return None


def _restore_refusal(
    *, backup: Backup, target: Disk, busy: bool, readers: Mapping[UUID, Storage]
) -> BackupsiteError | None:
    if error := _source_refusal(backup):
        return error
    if error := _content_refusal(backup, target):
        return error
    if target.size_bytes < backup.size_bytes and target.driver != "zfs" and backup.content == CONTENT_DISK:
        return InvalidInputError(
            f"{target} has {target.size_bytes} bytes, the backup needs {backup.size_bytes}. Choose a larger disk.",
            code="target_too_small",
            field="target",
        )
    if is_zfs_stream(backup) != (target.driver == "zfs"):
        return ConflictError(
            f"{target} is read by the driver {target.driver}; what ZFS sent goes back to a ZFS dataset only, and "
            "nothing else does. Choose another disk.",
            code="other_kind_of_disk",
        )
    node = target.server.node
    if backup.storage is not None and target.driver != "zfs" and target.server.node_id not in readers:
        return _copy_elsewhere(backup.storage, node)
    if node is not None and node.status == Node.Status.MAINTENANCE:
        return ConflictError(f"The node {node.name} is in maintenance.", code="node_in_maintenance")
    if busy:
        return ConflictError(f"A restore onto {target} is under way already.", code="restore_under_way")
    return None


def _content_refusal(backup: Backup, target: Disk) -> BackupsiteError | None:
    """A tree goes into a folder, an image onto a disk, a stream to what made it."""
    holds = _WORDS_OF_CONTENT[backup.content]
    takes = content_of(target.driver)
    is_other_stream = takes == CONTENT_STREAM and backup.disk is not None and backup.disk.driver != target.driver
    if takes == backup.content and not is_other_stream:
        return None
    return ConflictError(
        f"The backup holds {holds}; {target} is read by the driver {target.driver} and takes "
        f"{_WORDS_OF_CONTENT[takes] if not is_other_stream else 'those of its own kind'} only. Choose another target.",
        code="wrong_content",
        field="target",
    )


def refuse_copy(backup: Backup, *, node: Node | None) -> None:
    """Raise ConflictError for a copy that cannot become a new disk on the node."""
    if backup.storage is None or is_zfs_stream(backup):
        return
    if node is None or node.pk not in nodes_that_see(backup.storage):
        raise _copy_elsewhere(backup.storage, node)


def _copy_elsewhere(storage: Storage, node: Node | None) -> ConflictError:
    """With the ways that there are."""
    who = f"the node {node.name}" if node is not None else "the agent"
    ways = f"Choose a disk on {storage.node.name}"
    if node is not None and storage.path.startswith("/"):
        ways += (
            f", or mount the same share on {node.name} and add it there as a storage: every node that sees a copy "
            "can read it"
        )
    message = f"The backup lies on {storage}; {who} of the target does not see it. {ways}."
    return ConflictError(message, code="copy_elsewhere")


def reader_of(backup: Backup, target: Disk) -> Node | None:
    """Whose worker does a restore onto the disk: the target's, or for a copy the one that it lies on, if it must."""
    storage, node = backup.storage, target.server.node
    if storage is None or (node is not None and target.driver != "zfs" and node.pk in nodes_that_see(storage)):
        return node
    return storage.node


def is_zfs_stream(backup: Backup) -> bool:
    """Of a file its name says it."""
    return backup.type == "dataset" or (backup.is_copy and ".zfs" in backup.place.rpartition("/")[2])


def shown_status(backup: Backup) -> str:
    """The status in words, `removed` included."""
    return "removed" if backup.removed_at is not None else str(backup.status)


def cancel_job(*, job: Job, actor: Person, now: datetime) -> None:
    """Cancel: at once what waits, within seconds what runs. Asking twice is no error; a finished job is one."""
    _cancel(job, message=f"Canceled by {actor}.", now=now)


def cancel_for_deletion(*, job: Job, now: datetime) -> None:
    """As `cancel_job`, when the tenant goes; one that ends meanwhile is no error."""
    with suppress(ConflictError):
        _cancel(job, message="The tenant is being deleted.", now=now)


def _cancel(job: Job, *, message: str, now: datetime) -> None:
    pending = Job.objects.filter(state=JobState.PENDING)
    if end_job(pending, job=job, state=JobState.CANCELED, code="canceled", message=message, now=now):
        return
    with transaction.atomic():
        if Job.objects.filter(pk=job.pk, state=JobState.RUNNING, cancel_requested=False).update(cancel_requested=True):
            note_event(job, at=now, code="cancel_requested", message=message)
            return
    if not Job.objects.filter(pk=job.pk, state=JobState.RUNNING).exists():
        raise ConflictError("The job has ended already.", code="job_ended")


@transaction.atomic
def remove_backups(*, backups: Iterable[Backup], actor: Person | None, now: datetime) -> list[Backup]:
    """Take backups out of the catalogue; their bytes stay until their locks end. Returns those that were removed now.

    Raises ConflictError, and removes none, when one is pending or being restored.
    """
    chosen = list(backups)
    for backup in chosen:
        if backup.status not in {BackupStatus.OK, BackupStatus.LOST}:
            raise ConflictError(f"The backup {backup.name} is in use ({backup.status}).", code="backup_in_use")
    taken = set(take_out([backup.pk for backup in chosen], statuses=[BackupStatus.OK, BackupStatus.LOST], now=now))
    removed = [backup for backup in chosen if backup.pk in taken]
    for backup in removed:
        facts = {"created_at": backup.created_at, "immutable_until": backup.immutable_until}
        record(action="backup.delete", subject=backup, actor=actor, before=facts)
    return removed


@transaction.atomic
def set_note(*, backup: Backup, note: str) -> Backup:
    """The only thing about a backup that a person may write."""
    if len(note) > 255:
        raise InvalidInputError("A note has at most 255 characters.", field="note")
    before = {"note": backup.note}
    backup.note = note
    backup.save(update_fields=["note", "changed_at"])
    record_change(action="backup.note", subject=backup, before=before)
    return backup
