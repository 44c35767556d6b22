"""Restores a backup to a disk, a folder or the receiver of a stream, which the driver opens for it."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TypedDict

from agents import protocol
from agents.drivers.base import DriverError, TargetFacts, Warned, WriteWish
from agents.drivers.registry import content_of, load_driver, load_stream_driver, load_tree_driver
from agents.program.backing_up import address_of
from agents.program.heart import Heart
from agents.program.naming_files import problems_of_restore
from agents.program.running import Means, Run, UsageMeter, warned
from agents.program.session import to_ref
from engine.codec import OBJECT_SIZE_MAX
from engine.crypto import DomainKeys
from engine.errors import CanceledError, EngineError
from engine.manifest import CONTENT_DISK, CONTENT_STREAM, CONTENT_TREE, ManifestInfo
from engine.relocations import Relocations, parse_relocations
from engine.restore import RestoreKeys, RestoreProgress, restore_disk
from engine.store.base import ObjectRef, ObjectSource, fetch_whole
from engine.store.http import GrantedSource, HttpPolicy
from engine.stream_restore import restore_stream
from engine.tree_restore import TreeDamagedError, TreeRestoreOptions, restore_tree
from engine.waiting import Cancel

logger = logging.getLogger(__name__)

NOT_ATTACHED = "not_attached"


class CannotDefineError(DriverError):
    """The driver makes no servers, or the backup has no description of one."""

    code = "cannot_define"


class NotExactError(DriverError):
    """What the backup does not have must stay there, and was to be removed."""

    code = "not_exact"


class FilesDamagedError(DriverError):
    """Everything but some files was restored."""

    code = "damaged"

    def __init__(self, message: str, *, warnings: Sequence[Warned]) -> None:
        super().__init__(message)
        self.warnings = warnings
        self.is_whole_but_damage = True


class Given(TypedDict):
    """What every way to restore is given."""

    manifest_ref: ObjectRef
    object_source: ObjectSource
    keys: RestoreKeys
    trusted_writers: Collection[bytes]
    relocations: Sequence[Relocations]
    gone_packs: Collection[bytes]
    progress: Callable[[RestoreProgress], None]
    cancel: Cancel


@dataclass(frozen=True, slots=True)
class Restored:
    manifest: ManifestInfo
    written_bytes: int
    warnings: tuple[Warned, ...] = ()


def restore(run: Run, work: protocol.RestoreWork, means: Means) -> None:
    """Write the backup, and tell the gate once every block was checked."""
    meter, given = UsageMeter(), given_of(run, work, means)
    restored = _WAYS.get(content_of(work.disk.driver), _restore_disk)(run, work, given)
    server = _define(run, work, restored.manifest) if work.defines else ""
    attached_as, not_attached = _attach(work) if work.attach_to else ("", ())
    done = protocol.RestoreDone(
        written_bytes=restored.written_bytes,
        usage=meter.read(),
        server=server,
        attached_as=attached_as,
        warnings=warned([*restored.warnings, *not_attached]),
    )
    run.client.restore_done(done)
    run.end()


def given_of(run: Run, work: protocol.RestoreWork, means: Means) -> Given:
    """Read from the vault by grants of the run's session."""
    policy = HttpPolicy(retry_seconds=means.retry_seconds, cancel=run.heart.stopped)
    source = GrantedSource(run.client, policy=policy)
    return {
        "manifest_ref": to_ref(work.manifest),
        "object_source": source,
        "keys": keys_of(work),
        "trusted_writers": work.trusted_writers,
        "relocations": relocations_of(work, source),
        "gone_packs": [bytes.fromhex(sha256) for sha256 in work.gone_packs],
        "progress": _progress_of(run.heart),
        "cancel": run.heart.stopped,
    }


def _restore_disk(run: Run, work: protocol.RestoreWork, given: Given) -> Restored:
    with load_driver(work.disk.driver).open_target(_wish(work)) as opened:
        _tell_opened(run, opened.facts)
        result = restore_disk(target=opened.target, differential=work.differential, **given)
    return Restored(result.manifest, result.written_bytes)


def _restore_tree(run: Run, work: protocol.RestoreWork, given: Given) -> Restored:
    """What is otherwise than it was with single files is said of the job, and is no failure; damage is one."""
    options = TreeRestoreOptions(differential=work.differential, delete_extra=work.delete_extra)
    with load_tree_driver(work.disk.driver).open_folder(_wish(work)) as opened:
        if work.delete_extra and opened.not_exact:
            raise NotExactError(opened.not_exact)
        _tell_opened(run, opened.facts)
        try:
            result = restore_tree(target=opened.path, select=work.paths, options=options, **given)
        except TreeDamagedError as error:
            warnings = problems_of_restore(error.result)
            raise FilesDamagedError(f"{error.message}; everything else was.", warnings=warnings) from error
    return Restored(result.manifest, result.written_bytes, problems_of_restore(result))


def _restore_stream(run: Run, work: protocol.RestoreWork, given: Given) -> Restored:
    with load_stream_driver(work.disk.driver).open_output(_wish(work)) as opened:
        _tell_opened(run, opened.facts)
        result = restore_stream(output=opened.output, **given)
        opened.finish(run.heart.stopped)
    return Restored(result.manifest, result.written_bytes)


_WAYS: Mapping[str, Callable[[Run, protocol.RestoreWork, Given], Restored]] = {
    CONTENT_DISK: _restore_disk,
    CONTENT_TREE: _restore_tree,
    CONTENT_STREAM: _restore_stream,
}


def _wish(work: protocol.RestoreWork) -> WriteWish:
    return WriteWish(
        address=address_of(work.disk),
        size_bytes=work.size_bytes,
        create=work.create,
        safety_point=work.safety_point,
        folder=work.folder,
        overwrite=work.differential,
    )


def _tell_opened(run: Run, facts: TargetFacts) -> None:
    """From here on the target holds neither its old content nor the whole backup, until the restore is done."""
    told = protocol.TargetOpened(safety_point=facts.safety_point, warnings=warned(facts.warnings))
    run.client.target_opened(told)


def _define(run: Run, work: protocol.RestoreWork, manifest: ManifestInfo) -> str:
    """The new server's name on this node; empty while other disks of it are still to be written."""
    order = run.client.restore_written()
    if not order.name:
        return ""
    driver = load_driver(work.disk.driver)
    define = getattr(driver, "define", None)
    configuration = (manifest.source_facts or {}).get("configuration", "")
    if define is None or not configuration:
        raise CannotDefineError(
            f"The driver {work.disk.driver} cannot define a server of this backup. Its disks are restored: define one "
            "by hand, and attach them."
        )
    server: str = define(configuration, name=order.name, disks=order.disks)
    return server


def _attach(work: protocol.RestoreWork) -> tuple[str, tuple[Warned, ...]]:
    """What the guest calls the new disk from now on; else why not, which is no failure: the disk is there."""
    driver, address = load_driver(work.disk.driver), address_of(work.disk)
    path = os.path.realpath(os.path.join(address.storage_path, address.path))
    attach = getattr(driver, "attach", None)
    if attach is None:
        message = f"The driver {work.disk.driver} attaches no disks: add {path} to the server's own configuration."
        return "", (Warned(NOT_ATTACHED, message),)
    try:
        return attach(work.attach_to, path), ()
    except DriverError as error:
        return "", (Warned(NOT_ATTACHED, error.message),)


def keys_of(work: protocol.RestoreWork) -> RestoreKeys:
    return RestoreKeys(
        domain=DomainKeys(id_key=work.id_key, map_key=work.map_key),
        data_keys={bytes.fromhex(session_id): key for session_id, key in work.data_keys.items()},
    )


def _progress_of(heart: Heart) -> Callable[[RestoreProgress], None]:
    def tell(progress: RestoreProgress) -> None:
        heart.tell(
            protocol.Progress(phase="restoring", done_bytes=progress.done_bytes, total_bytes=progress.size_bytes)
        )

    return tell


def relocations_of(work: protocol.RestoreWork, source: GrantedSource) -> list[Relocations]:
    """Other places of damaged blocks. One that cannot be read is only one place fewer."""
    found = []
    for message in work.relocations:
        try:
            data = fetch_whole(source, to_ref(message), size_max=OBJECT_SIZE_MAX)
            found.append(parse_relocations(data, tenant=work.tenant, domain=work.domain, map_key=work.map_key))
        except CanceledError:
            raise
        except EngineError as error:
            logger.warning("a relocation cannot be read", extra={"key": message.key, "code": error.code})
    return found
