"""Runs one session: opens the disk by its driver and lets the engine move the data straight to or from the vault.

The same code runs in a node's Celery worker and in the agent program. It knows no database and no storage credential.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import resource
import time
from collections.abc import Callable, Sequence

from agents import protocol
from agents.drivers.base import DiskAddress, DiskWish, DriverError, ReadWish, WriteWish
from agents.drivers.registry import load_driver
from agents.program.healing import HealedBlocks
from agents.program.heart import Heart
from agents.program.session import (
    GateError,
    GateRefusedError,
    SessionClient,
    SessionEndedError,
    to_message,
    to_ref,
)
from engine.codec import OBJECT_SIZE_MAX
from engine.crypto import DomainKeys, WriterKey
from engine.errors import BaseMismatchError, CanceledError, EngineError, StoreDeniedError
from engine.relocations import Relocations, parse_relocations
from engine.restore import RestoreKeys, RestoreProgress, restore_disk
from engine.store.base import ObjectRef, fetch_whole
from engine.store.http import Grant, GrantedSink, GrantedSource, HttpPolicy, PutSpec
from engine.writer import (
    BackupBase,
    ResumableSession,
    WriteContext,
    WriteProgress,
    WriteResult,
    write_disk_backup,
)

logger = logging.getLogger(__name__)

UNEXPECTED = "unexpected_error"
CANCELED = "canceled"
# Far shorter than a lease; a cancel is noticed with a beat.
HEARTBEAT_SECONDS = 1.0


def run_session(
    client: SessionClient,
    *,
    writer_key: WriterKey,
    retry_seconds: float,
    random_bytes: Callable[[int], bytes] = os.urandom,
) -> None:
    """Run the session to its end and report it. Returns also when it failed: the gate has been told why.

    Raises only GateError, when the gate itself cannot be told; the lease then runs out and the job is taken over.
    """
    with Heart(client=client, interval_seconds=HEARTBEAT_SECONDS) as heart:
        failure = _failure_of(lambda: _run(client, heart, writer_key, retry_seconds, random_bytes), heart)
    if failure is not None and not heart.lost:
        client.fail(failure)


def _run(
    client: SessionClient,
    heart: Heart,
    writer_key: WriterKey,
    retry_seconds: float,
    random_bytes: Callable[[int], bytes],
) -> None:
    work = client.open()
    meter = UsageMeter()
    if isinstance(work, protocol.BackupWork):
        result = _back_up(client, work, heart, writer_key, retry_seconds, random_bytes)
        client.commit(_commit_request(result, meter.read()))
        return
    written_bytes = _restore(client, work, heart, retry_seconds)
    client.restore_done(protocol.RestoreDone(written_bytes=written_bytes, usage=meter.read()))


def _failure_of(run: Callable[[], None], heart: Heart) -> protocol.Failure | None:
    """Run and give every way to fail its stable code."""
    try:
        run()
    except CanceledError:
        return protocol.Failure(code=CANCELED, message="Canceled.", permanent=True)
    except SessionEndedError as error:
        heart.lost = True
        logger.warning("session ended by the control plane", extra={"code": error.code})
    except (DriverError, EngineError) as error:
        return protocol.Failure(code=error.code, message=error.message, permanent=getattr(error, "permanent", False))
    except GateError as error:
        return protocol.Failure(code=error.code, message=error.message, permanent=isinstance(error, GateRefusedError))
    except Exception as error:
        logger.exception("session failed unexpectedly")
        message = f"Unexpected {type(error).__name__}; the node's log has the details."
        return protocol.Failure(code=UNEXPECTED, message=message)
    return None


def _back_up(
    client: SessionClient,
    work: protocol.BackupWork,
    heart: Heart,
    writer_key: WriterKey,
    retry_seconds: float,
    random_bytes: Callable[[int], bytes],
) -> WriteResult:
    """A backup over its base; a full one, and progress that says so, when the base cannot be used."""
    context = _write_context(work, writer_key, random_bytes)
    policy = _policy(heart, retry_seconds)
    reader = GrantedSource(_ReadGrants(client), policy=policy)
    base = None
    if work.base is not None:
        base = BackupBase(manifest_ref=to_ref(work.base), object_source=reader, trusted_writers=work.trusted_writers)
    wish = ReadWish(disks=[DiskWish(_address(work.disk))], new_point="")
    with load_driver(work.disk.driver).open_sources(wish) as [opened]:
        source = opened.source

        def write(base: BackupBase | None, context: WriteContext, phase: str) -> WriteResult:
            healed, sink = HealedBlocks(), GrantedSink(client, policy=policy)
            result = write_disk_backup(
                source=source,
                sink=sink,
                base=base,
                context=dataclasses.replace(context, on_moved=healed.add),
                progress=_progress_of(heart, phase, source.size_bytes),
                cancel=heart.stopped,
                resume=[_resumable(message) for message in work.resumable],
                resume_source=reader,
            )
            moved = healed.store(result, context=context, sink=sink)
            return dataclasses.replace(result, new_objects=(*result.new_objects, *moved))

        try:
            return write(base, context, "copying")
        except BaseMismatchError as error:
            logger.warning("base cannot be used, full backup", extra={"code": error.code, "reason": error.message})
            previous = work.base.sha256 if work.base is not None else None
            return write(None, dataclasses.replace(context, previous_sha256=previous), f"full: {error.code}")


def _write_context(
    work: protocol.BackupWork, writer_key: WriterKey, random_bytes: Callable[[int], bytes]
) -> WriteContext:
    return WriteContext(
        tenant=work.tenant,
        domain=work.domain,
        source_id=work.source_id,
        sequence=work.sequence,
        created_at=work.created_at,
        domain_keys=DomainKeys(id_key=work.id_key, map_key=work.map_key),
        tenant_public_key=work.tenant_public_key,
        writer_key=writer_key,
        block_size=work.block_size_bytes,
        compression_level=work.compression_level,
        random_bytes=random_bytes,
        source_facts=work.source_facts,
        bandwidth_bytes_per_second=work.bandwidth_bytes_per_second or None,
        # One list: the hash of a pack is never that of a segment.
        distrusted_packs=frozenset(work.distrusted),
        distrusted_segments=frozenset(work.distrusted),
    )


def _progress_of(heart: Heart, phase: str, total_bytes: int) -> Callable[[WriteProgress], None]:
    def tell(progress: WriteProgress) -> None:
        heart.tell(
            protocol.Progress(
                phase=phase,
                done_bytes=progress.scanned_bytes,
                total_bytes=total_bytes,
                stored_bytes=progress.stored_bytes,
            )
        )

    return tell


def _resumable(message: protocol.ResumableMessage) -> ResumableSession:
    return ResumableSession(to_ref(message.envelope), [to_ref(pack) for pack in message.packs])


class _ReadGrants:
    """Read grants of the base and of earlier attempts. What the gate refuses for good is an object that cannot be had,
    which costs a fuller backup, and not the end of the session.
    """

    def __init__(self, client: SessionClient) -> None:
        self._client = client

    def grant_puts(self, specs: Sequence[PutSpec]) -> list[Grant]:
        return self._client.grant_puts(specs)

    def grant_gets(self, refs: Sequence[ObjectRef]) -> list[Grant]:
        try:
            return self._client.grant_gets(refs)
        except GateRefusedError as error:
            raise StoreDeniedError(f"the control plane gives no right to read: {error.message}") from None


def _restore(client: SessionClient, work: protocol.RestoreWork, heart: Heart, retry_seconds: float) -> int:
    keys = RestoreKeys(
        domain=DomainKeys(id_key=work.id_key, map_key=work.map_key),
        data_keys={bytes.fromhex(session_id): key for session_id, key in work.data_keys.items()},
    )
    source = GrantedSource(client, policy=_policy(heart, retry_seconds))

    def tell(progress: RestoreProgress) -> None:
        heart.tell(
            protocol.Progress(phase="restoring", done_bytes=progress.done_bytes, total_bytes=progress.size_bytes)
        )

    wish = WriteWish(address=_address(work.disk), size_bytes=0)
    with load_driver(work.disk.driver).open_target(wish) as opened:
        result = restore_disk(
            manifest_ref=to_ref(work.manifest),
            object_source=source,
            keys=keys,
            trusted_writers=work.trusted_writers,
            target=opened.target,
            differential=work.differential,
            relocations=_relocations(work, source),
            gone_packs=[bytes.fromhex(sha256) for sha256 in work.gone_packs],
            progress=tell,
            cancel=heart.stopped,
        )
    return result.written_bytes


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


def _policy(heart: Heart, retry_seconds: float) -> HttpPolicy:
    return HttpPolicy(retry_seconds=retry_seconds, cancel=heart.stopped)


def _commit_request(result: WriteResult, usage: protocol.MoverUsage) -> protocol.CommitRequest:
    return protocol.CommitRequest(
        manifest=to_message(result.manifest),
        new_objects=[to_message(ref) for ref in (*result.new_objects, result.manifest)],
        reused_objects=[to_message(ref) for ref in result.reused_objects],
        read_bytes=result.stats.read_bytes,
        changed_bytes=result.stats.changed_bytes,
        stored_bytes=result.stats.stored_bytes,
        usage=usage,
        resumed_objects=[to_message(ref) for ref in result.resumed_objects],
    )


def _address(disk: protocol.DiskMessage) -> DiskAddress:
    return DiskAddress(storage_path=disk.storage_path, path=disk.path, size_bytes=disk.size_bytes)


class UsageMeter:
    """Wall time, CPU and peak memory of this process since the meter was made (peak memory: of its whole life)."""

    def __init__(self) -> None:
        self._wall = time.monotonic()
        self._cpu = time.process_time()

    def read(self) -> protocol.MoverUsage:
        return protocol.MoverUsage(
            wall_seconds=time.monotonic() - self._wall,
            cpu_seconds=time.process_time() - self._cpu,
            peak_memory_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        )
