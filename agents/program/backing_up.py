"""Backs up disks of one server: opens them all at one moment, then lets the engine move them one after the other."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Sequence
from functools import partial

import msgspec

from agents import protocol
from agents.drivers.base import DiskAddress, DiskWish, OpenedDisk, ReadWish, SourceFacts, Warned
from agents.drivers.registry import load_driver
from agents.program.healing import HealedBlocks
from agents.program.heart import Heart
from agents.program.running import Means, Run, UsageMeter, warned
from agents.program.session import GateRefusedError, SessionClient, to_message, to_ref
from engine.crypto import DomainKeys
from engine.errors import BaseMismatchError, StoreDeniedError
from engine.store.base import ObjectRef
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

# Bytes of a server's own description, which goes into the sealed part of the manifest.
LONGEST_CONFIGURATION = 1024 * 1024
WAITS_FOR_OTHERS = "waiting for other disks"


@dataclasses.dataclass(frozen=True)
class Reading:
    """A session whose disk is to be read. `warning` is what its backup says beside what the driver says."""

    run: Run
    work: protocol.BackupWork
    warning: Warned | None = None


def back_up(readings: Sequence[Reading], means: Means) -> None:
    """Disks of one server as they were at one moment. What cannot be opened together is opened one by one.

    Each session ends here: when its own copy fails, at once; otherwise after the driver has put everything back.
    """
    done: list[tuple[Run, protocol.CommitRequest]] = []
    has_opened = False
    try:
        with load_driver(readings[0].work.disk.driver).open_sources(_wish(readings)) as opened:
            has_opened = True
            for reading, disk in zip(readings, opened, strict=True):
                request = reading.run.attempt(partial(_copy, reading, disk, means))
                if request is not None:
                    done.append((reading.run, request))
                    reading.run.heart.tell_phase(WAITS_FOR_OTHERS)
    except Exception as error:
        if not has_opened and len(readings) > 1:
            _back_up_alone(readings, means, error)
            return
        for reading in readings:
            reading.run.fail(error)
    for run, request in done:
        run.attempt(partial(run.client.commit, request))
        run.end()


def _back_up_alone(readings: Sequence[Reading], means: Means, error: Exception) -> None:
    """A disk that cannot be opened costs the others nothing but the common moment, and their backups say so."""
    logger.warning("disks could not be opened together", exc_info=error)
    why = Warned("not_together", f"The disks of the server are of different moments: {error}")
    for number, reading in enumerate(readings, start=1):
        # A second point cannot have the name of the first.
        work = msgspec.structs.replace(reading.work, new_point=f"{reading.work.new_point}-{number}")
        back_up([Reading(reading.run, work, why)], means)


def _wish(readings: Sequence[Reading]) -> ReadWish:
    return ReadWish(
        disks=[disk_wish(reading.work) for reading in readings],
        new_point=readings[0].work.new_point,
        freeze=any(reading.work.freeze for reading in readings),
    )


def disk_wish(work: protocol.BackupWork) -> DiskWish:
    return DiskWish(
        address=address_of(work.disk), base_point=work.base_point or None, kept_points=frozenset(work.kept_points)
    )


def address_of(disk: protocol.DiskMessage) -> DiskAddress:
    return DiskAddress(disk.storage_path, disk.path, disk.size_bytes, disk.server)


def _copy(reading: Reading, disk: OpenedDisk, means: Means) -> protocol.CommitRequest:
    """A backup over its base; a full one, and progress that says so, when the base cannot be used."""
    work, run = reading.work, reading.run
    client, source, meter = run.client, disk.source, UsageMeter()
    context = _with_configuration(_write_context(work, means), disk.facts)
    policy = HttpPolicy(retry_seconds=means.retry_seconds, cancel=run.heart.stopped)
    reader = GrantedSource(_ReadGrants(client), policy=policy)
    base = None
    if work.base is not None:
        base = BackupBase(manifest_ref=to_ref(work.base), object_source=reader, trusted_writers=work.trusted_writers)

    def write(base: BackupBase | None, context: WriteContext, phase: str) -> WriteResult:
        healed, sink = HealedBlocks(), GrantedSink(client, policy=policy)
        result = write_disk_backup(
            source=source,
            sink=sink,
            base=base,
            context=dataclasses.replace(context, on_moved=healed.add),
            progress=_progress_of(run.heart, phase, source.size_bytes),
            cancel=run.heart.stopped,
            resume=[_resumable(message) for message in work.resumable],
            resume_source=reader,
        )
        moved = healed.store(result, context=context, sink=sink)
        return dataclasses.replace(result, new_objects=(*result.new_objects, *moved))

    facts = _facts_of(disk.facts, reading.warning)
    try:
        result = write(base, context, "copying")
    except BaseMismatchError as error:
        logger.warning("base cannot be used, full backup", extra={"code": error.code, "reason": error.message})
        previous = work.base.sha256 if work.base is not None else None
        result = write(None, dataclasses.replace(context, previous_sha256=previous), f"full: {error.code}")
        facts = msgspec.structs.replace(facts, full_reason=facts.full_reason or error.code)
    return _commit_request(result, meter.read(), facts)


def _facts_of(facts: SourceFacts, warning: Warned | None) -> protocol.FactsMessage:
    return protocol.FactsMessage(
        point=facts.point,
        frozen=facts.frozen,
        full_reason=facts.full_reason,
        has_configuration=_is_kept(facts.configuration),
        warnings=warned([*facts.warnings, *([warning] if warning is not None else [])]),
    )


def _with_configuration(context: WriteContext, facts: SourceFacts) -> WriteContext:
    """With the server's own description, from which it can be made anew; left out when it is absurdly long."""
    if not _is_kept(facts.configuration):
        return context
    return dataclasses.replace(context, source_facts={**context.source_facts, "configuration": facts.configuration})


def _is_kept(configuration: str) -> bool:
    return 0 < len(configuration.encode()) <= LONGEST_CONFIGURATION


def _write_context(work: protocol.BackupWork, means: Means) -> WriteContext:
    return WriteContext(
        tenant=work.tenant,
        domain=work.domain,
        source_id=work.source_id,
        sequence=work.sequence,
        created_at=work.created_at,
        domain_keys=DomainKeys(id_key=work.id_key, map_key=work.map_key),
        tenant_public_key=work.tenant_public_key,
        writer_key=means.writer_key,
        block_size=work.block_size_bytes,
        compression_level=work.compression_level,
        random_bytes=means.random_bytes,
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


def _commit_request(
    result: WriteResult, usage: protocol.MoverUsage, facts: protocol.FactsMessage
) -> protocol.CommitRequest:
    return protocol.CommitRequest(
        manifest=to_message(result.manifest),
        new_objects=[to_message(ref) for ref in (*result.new_objects, result.manifest)],
        reused_objects=[to_message(ref) for ref in result.reused_objects],
        read_bytes=result.stats.read_bytes,
        changed_bytes=result.stats.changed_bytes,
        stored_bytes=result.stats.stored_bytes,
        usage=usage,
        resumed_objects=[to_message(ref) for ref in result.resumed_objects],
        facts=facts,
    )
