"""Copies of disks in files of a storage: written, written back to a disk, and read again to see whether they are whole.

The driver opens the disk as it does for a vault; only the other end is another one.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from agents import protocol
from agents.drivers.base import DiskWish, OpenedDisk, ReadWish, SourceFacts, WriteWish
from agents.drivers.copy_files import (
    DISK,
    CopyDamagedError,
    CopyManifest,
    CopyPlace,
    CopySpec,
    check_copy,
    disk_chunks,
    read_copy,
    write_copy,
)
from agents.drivers.copy_folder import CopyMissingError
from agents.drivers.registry import load_driver
from agents.drivers.zfs_commands import SNAPSHOT_PREFIX, Host
from agents.drivers.zfs_streams import modes_of, sent
from agents.drivers.zfs_swap import SwapWish, swap_in
from agents.program.backing_up import address_of
from agents.program.running import Run, UsageMeter, warned
from agents.program.zfs_hosts import host_of
from engine.restore import BlockTarget
from engine.waiting import Background

ZFS = "zfs"
CopyMessage = protocol.CopyWork | protocol.CopyRestoreWork | protocol.CopyCheckWork


def run_copy(run: Run, work: CopyMessage, node_directory: Path) -> None:
    """Do the work and tell the gate how it ended."""
    if isinstance(work, protocol.CopyWork):
        if work.disk.driver == ZFS:
            _copied(run, UsageMeter(), *copy_stream(run, work, host_of(node_directory, work.node)))
        else:
            _back_up(run, work)
    elif isinstance(work, protocol.CopyRestoreWork):
        if work.disk.driver == ZFS:
            _restore_stream(run, work, host_of(node_directory, work.node))
        else:
            _restore(run, work)
    else:
        _check(run, work)
    run.end()


def _back_up(run: Run, work: protocol.CopyWork) -> None:
    meter = UsageMeter()
    disk = DiskWish(address_of(work.disk), kept_points=frozenset(work.kept_points))
    wish = ReadWish(disks=[disk], new_point=work.new_point, freeze=work.freeze)
    with load_driver(work.disk.driver).open_sources(wish) as [opened]:
        manifest, read_bytes = _write(run, work, opened)
        facts = opened.facts
    _copied(run, meter, manifest, read_bytes, facts)


def _copied(
    run: Run, meter: UsageMeter, manifest: CopyManifest, read_bytes: int, facts: SourceFacts | None = None
) -> None:
    facts = facts or SourceFacts()
    # When the answer gets lost, nobody knows here whether it counts: the file stays, and the sweep looks later.
    run.client.copied(
        protocol.CopyDone(
            sha256=manifest.sha256,
            file_bytes=manifest.file_bytes,
            size_bytes=manifest.size_bytes,
            read_bytes=read_bytes,
            usage=meter.read(),
            facts=protocol.FactsMessage(point=facts.point, frozen=facts.frozen, warnings=warned(facts.warnings)),
        )
    )


def copy_stream(run: Run, work: protocol.CopyWork, source: Host) -> tuple[CopyManifest, int]:
    """A full `zfs send` into the file. Its snapshot is there only as long as it is read."""
    dataset, name = dataset_of(work.disk), f"{SNAPSHOT_PREFIX}file-{work.facts['backup']}"
    spec = CopySpec(
        compression=work.compression,
        content=ZFS,
        size_bytes=0,
        facts=work.facts,
        bandwidth_bytes_per_second=work.bandwidth_bytes_per_second,
        is_first=work.is_first,
    )
    # An earlier attempt that was killed left it.
    source.destroy_own(dataset, name)
    source.snapshot(dataset, name, disk=work.disk_id)
    try:
        told = source.value(dataset, "referenced")
        total_bytes = int(told) if told.isdigit() else 0

        def tell(taken_bytes: int, file_bytes: int) -> None:
            run.heart.tell(protocol.Progress("copying", taken_bytes, total_bytes, file_bytes))

        steps = sent(source, [*modes_of(source, dataset), f"{dataset}@{name}"], cancel=run.heart.stopped)
        manifest = write_copy(
            _place(work.at), spec, steps, needed_bytes=total_bytes, tell=tell, cancel=run.heart.stopped
        )
    finally:
        source.destroy_own(dataset, name)
    return manifest, manifest.size_bytes


def _restore_stream(run: Run, work: protocol.CopyRestoreWork, target: Host) -> None:
    """The dataset stays what it was until the whole stream was received beside it and its hash compared."""
    meter = UsageMeter()

    def tell(done_bytes: int) -> None:
        run.heart.tell(protocol.Progress(phase="restoring", done_bytes=done_bytes, total_bytes=work.size_bytes))

    wish = SwapWish(dataset=dataset_of(work.disk), disk=work.disk_id, tag=work.tag, create=work.create, tell=tell)
    with read_copy(
        _place(work.at),
        compression=work.compression,
        sha256=work.sha256,
        file_bytes=work.file_bytes,
        cancel=run.heart.stopped,
    ) as steps:
        written_bytes = swap_in(target, wish, steps, cancel=run.heart.stopped)
    run.client.restore_done(protocol.RestoreDone(written_bytes=written_bytes, usage=meter.read()))


def dataset_of(disk: protocol.DiskMessage) -> str:
    return f"{disk.storage_path}/{disk.path}"


def _write(run: Run, work: protocol.CopyWork, opened: OpenedDisk) -> tuple[CopyManifest, int]:
    """The manifest, and how many bytes the disk was asked for."""
    source, heart = opened.source, run.heart
    extents = list(source.extents())
    allocated_bytes = sum(extent.length for extent in extents)
    spec = CopySpec(
        compression=work.compression,
        content=DISK,
        size_bytes=source.size_bytes,
        facts=work.facts,
        bandwidth_bytes_per_second=work.bandwidth_bytes_per_second,
        is_first=work.is_first,
    )

    def tell(taken_bytes: int, file_bytes: int) -> None:
        heart.tell(
            protocol.Progress(
                phase="copying", done_bytes=taken_bytes, total_bytes=source.size_bytes, stored_bytes=file_bytes
            )
        )

    # A disk that hangs keeps nobody from canceling.
    with Background(name="read", cancel=heart.stopped) as reading:
        manifest = write_copy(
            _place(work.at),
            spec,
            disk_chunks(source.size_bytes, extents, lambda start, size: reading.call(lambda: source.read(start, size))),
            needed_bytes=allocated_bytes,
            check=source.check_unchanged,
            tell=tell,
            cancel=heart.stopped,
        )
    return manifest, allocated_bytes


def _restore(run: Run, work: protocol.CopyRestoreWork) -> None:
    """The file is read once before the target is touched: a damaged copy destroys nothing."""
    meter = UsageMeter()
    _read_again(run, work.at, sha256=work.sha256, file_bytes=work.file_bytes)
    wish = WriteWish(
        address=address_of(work.disk),
        size_bytes=work.size_bytes,
        create=work.create,
        safety_point=work.safety_point,
    )
    with load_driver(work.disk.driver).open_target(wish) as opened:
        run.client.target_opened(
            protocol.TargetOpened(safety_point=opened.facts.safety_point, warnings=warned(opened.facts.warnings))
        )
        with read_copy(
            _place(work.at),
            compression=work.compression,
            sha256=work.sha256,
            file_bytes=work.file_bytes,
            cancel=run.heart.stopped,
        ) as steps:
            written_bytes = _fill(run, work, opened.target, steps)
        opened.target.flush()
    run.client.restore_done(protocol.RestoreDone(written_bytes=written_bytes, usage=meter.read()))


def _fill(run: Run, work: protocol.CopyRestoreWork, target: BlockTarget, steps: Iterator[bytes]) -> int:
    position = 0
    for step in steps:
        if position + len(step) > work.size_bytes:
            raise CopyDamagedError(f"{work.at.place} holds more than the {work.size_bytes} bytes of its disk.")
        if any(step):
            target.write(position, step)
        else:
            target.zero(position, len(step))
        position += len(step)
        run.heart.tell(protocol.Progress(phase="restoring", done_bytes=position, total_bytes=work.size_bytes))
    if position < work.size_bytes:
        raise CopyDamagedError(f"{work.at.place} ends after {position} of {work.size_bytes} bytes.")
    return position


def _check(run: Run, work: protocol.CopyCheckWork) -> None:
    meter, outcome, message = UsageMeter(), "ok", ""
    try:
        _read_again(run, work.at, sha256=work.sha256, file_bytes=work.file_bytes)
    except CopyMissingError as error:
        outcome, message = "missing", error.message
    except CopyDamagedError as error:
        outcome, message = "damaged", error.message
    run.client.copy_checked(protocol.CopyChecked(outcome=outcome, message=message, usage=meter.read()))


def _read_again(run: Run, at: protocol.CopyPlaceMessage, *, sha256: str, file_bytes: int) -> None:
    def tell(done_bytes: int, _: int) -> None:
        run.heart.tell(protocol.Progress(phase="reading the copy", done_bytes=done_bytes, total_bytes=file_bytes))

    check_copy(_place(at), sha256=sha256, file_bytes=file_bytes, tell=tell, cancel=run.heart.stopped)


def _place(message: protocol.CopyPlaceMessage) -> CopyPlace:
    return CopyPlace(message.storage_path, message.storage_id, message.place)
