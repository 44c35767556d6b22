"""Backs up disks of one server: opens them all at one moment, then lets the engine move them one after the other.

A disk may be a file tree or a stream as well; each stream is opened by itself."""

from __future__ import annotations

import dataclasses
import logging
import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial

import msgspec

from agents import protocol
from agents.drivers.base import DiskAddress, DiskWish, ReadWish, SourceFacts, Warned
from agents.drivers.registry import content_of, load_driver, load_stream_driver, load_tree_driver
from agents.program.healing import HealedBlocks
from agents.program.heart import Heart
from agents.program.running import Means, Run, UsageMeter, warned
from agents.program.sending import Opened, Sent, send, total_bytes
from agents.program.session import GateRefusedError, SessionClient, to_message, to_ref
from engine.crypto import DomainKeys
from engine.errors import BaseMismatchError, StoreDeniedError
from engine.manifest import CONTENT_STREAM, CONTENT_TREE
from engine.store.base import ObjectRef
from engine.store.http import Grant, GrantedSink, GrantedSource, HttpPolicy, PutSpec
from engine.waiting import Cancel
from engine.writer import (
    BackupBase,
    ResumableSession,
    WriteContext,
    WriteProgress,
    WriteResult,
)

logger = logging.getLogger(__name__)

# Bytes of a server's own description, which goes into the sealed part of the manifest.
LONGEST_CONFIGURATION = 1024 * 1024
WAITS_FOR_OTHERS = "waiting for other disks"
# All is in the vault; it is asked for again and again while the control plane is away.
COMMITTING = "telling the control plane what was stored"


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
    if content_of(readings[0].work.disk.driver) == CONTENT_STREAM:
        for reading in readings:
            _back_up_stream(reading, means)
        return
    done: list[tuple[Run, protocol.CommitRequest]] = []
    has_opened = False
    try:
        with _opening(readings) as opened:
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
        _commit(run, request)


def _back_up_stream(reading: Reading, means: Means) -> None:
    """A stream gives its bytes once: when the base turns out to be useless, it is opened again."""

    def copy(unfit: BaseMismatchError | None = None) -> protocol.CommitRequest:
        with _opening([reading]) as [opened]:
            return _attempt(reading, opened, means, unfit=unfit)

    def copied() -> protocol.CommitRequest:
        try:
            return copy()
        except BaseMismatchError as error:
            return copy(error)

    request = reading.run.attempt(copied)
    if request is not None:
        _commit(reading.run, request)


def _commit(run: Run, request: protocol.CommitRequest) -> None:
    run.heart.tell_phase(COMMITTING)
    run.attempt(partial(run.client.commit, request))
    run.end()


def _opening(readings: Sequence[Reading]) -> AbstractContextManager[Sequence[Opened]]:
    driver, wish = readings[0].work.disk.driver, _wish(readings)
    content = content_of(driver)
    if content == CONTENT_TREE:
        return load_tree_driver(driver).open_trees(wish)
    if content == CONTENT_STREAM:
        return load_stream_driver(driver).open_streams(wish)
    return load_driver(driver).open_sources(wish)


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


def _copy(reading: Reading, opened: Opened, means: Means) -> protocol.CommitRequest:
    """A backup over its base; a full one, and progress that says so, when the base cannot be used."""
    try:
        return _attempt(reading, opened, means)
    except BaseMismatchError as error:
        return _attempt(reading, opened, means, unfit=error)


def _attempt(
    reading: Reading, opened: Opened, means: Means, *, unfit: BaseMismatchError | None = None
) -> protocol.CommitRequest:
    """`unfit` is why the base is not used."""
    work, meter = reading.work, UsageMeter()
    facts = _facts_of(opened.facts, reading.warning)
    context = _with_configuration(_write_context(work, means), opened.facts)
    phase = "copying"
    if unfit is not None:
        logger.warning("base cannot be used, full backup", extra={"code": unfit.code, "reason": unfit.message})
        context = dataclasses.replace(context, previous_sha256=work.base.sha256 if work.base is not None else None)
        facts = msgspec.structs.replace(facts, full_reason=facts.full_reason or unfit.code)
        phase = f"full: {unfit.code}"
    sent = _sent(reading, opened, context, means, has_base=unfit is None, phase=phase)
    facts = msgspec.structs.replace(facts, warnings=[*facts.warnings, *warned(sent.warnings)])
    return _commit_request(sent.result, meter.read(), facts)


def _sent(reading: Reading, opened: Opened, context: WriteContext, means: Means, *, has_base: bool, phase: str) -> Sent:
    work, run = reading.work, reading.run
    policy = HttpPolicy(retry_seconds=means.retry_seconds, cancel=run.heart.stopped)
    healed, sink = HealedBlocks(), GrantedSink(run.client, policy=policy)
    reader = GrantedSource(_ReadGrants(run.client), policy=policy)
    base = None
    if has_base and work.base is not None:
        base = BackupBase(manifest_ref=to_ref(work.base), object_source=reader, trusted_writers=work.trusted_writers)
    sent = send(
        opened,
        work,
        {
            "sink": sink,
            "base": base,
            "context": dataclasses.replace(context, on_moved=healed.add),
            "progress": _progress_of(run.heart, phase, total_bytes(opened, work)),
            "cancel": _reading_cancel(run, means),
            "resume": [_resumable(message) for message in work.resumable],
            "resume_source": reader,
        },
    )
    moved = healed.store(sent.result, context=context, sink=sink)
    result = dataclasses.replace(sent.result, new_objects=(*sent.result.new_objects, *moved))
    return dataclasses.replace(sent, result=result)


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
        bandwidth_bytes_per_second=(
            partial(means.bandwidth, work.bandwidth_bytes_per_second)
            if means.bandwidth is not None
            else work.bandwidth_bytes_per_second or None
        ),
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


def _reading_cancel(run: Run, means: Means) -> Cancel:
    """The cancel of this thread's work, which also holds it still. What is on its way to the vault goes on: a call that
    is kept open and says nothing is given up by the other side."""
    pause, stopped, reader = means.pause, run.heart.stopped, threading.get_ident()
    if pause is None:
        return stopped

    def cancel() -> bool:
        if threading.get_ident() == reader:
            pause(stopped)
        return stopped()

    return cancel


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
