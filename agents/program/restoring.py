"""Restores a backup to a disk that the driver opens for it."""

from __future__ import annotations

import logging
from collections.abc import Callable

from agents import protocol
from agents.drivers.base import DriverError, WriteWish
from agents.drivers.registry import load_driver
from agents.program.backing_up import address_of
from agents.program.heart import Heart
from agents.program.running import Means, Run, UsageMeter, warned
from agents.program.session import to_ref
from engine.codec import OBJECT_SIZE_MAX
from engine.crypto import DomainKeys
from engine.errors import CanceledError, EngineError
from engine.manifest import ManifestInfo
from engine.relocations import Relocations, parse_relocations
from engine.restore import RestoreKeys, RestoreProgress, restore_disk
from engine.store.base import fetch_whole
from engine.store.http import GrantedSource, HttpPolicy

logger = logging.getLogger(__name__)


class CannotDefineError(DriverError):
    """The driver makes no servers, or the backup has no description of one."""

    code = "cannot_define"


def restore(run: Run, work: protocol.RestoreWork, means: Means) -> None:
    """Write the backup, and tell the gate once every block was checked."""
    meter = UsageMeter()
    policy = HttpPolicy(retry_seconds=means.retry_seconds, cancel=run.heart.stopped)
    source = GrantedSource(run.client, policy=policy)
    wish = WriteWish(
        address=address_of(work.disk),
        size_bytes=work.size_bytes,
        create=work.create,
        safety_point=work.safety_point,
    )
    with load_driver(work.disk.driver).open_target(wish) as opened:
        # From here on the target holds neither its old content nor the whole backup, until the restore is done.
        run.client.target_opened(
            protocol.TargetOpened(safety_point=opened.facts.safety_point, warnings=warned(opened.facts.warnings))
        )
        result = restore_disk(
            manifest_ref=to_ref(work.manifest),
            object_source=source,
            keys=_keys_of(work),
            trusted_writers=work.trusted_writers,
            target=opened.target,
            differential=work.differential,
            relocations=_relocations(work, source),
            gone_packs=[bytes.fromhex(sha256) for sha256 in work.gone_packs],
            progress=_progress_of(run.heart),
            cancel=run.heart.stopped,
        )
    server = _define(run, work, result.manifest) if work.defines else ""
    done = protocol.RestoreDone(written_bytes=result.written_bytes, usage=meter.read(), server=server)
    run.client.restore_done(done)
    run.end()


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


def _keys_of(work: protocol.RestoreWork) -> RestoreKeys:
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


def _relocations(work: protocol.RestoreWork, source: GrantedSource) -> list[Relocations]:
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
