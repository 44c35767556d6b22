"""Backups of ZFS datasets on the pool of this node: received, sent back, and read again."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from agents import protocol
from agents.drivers.base import DriverError
from agents.drivers.zfs_commands import Host
from agents.drivers.zfs_sets import Base, SendWish, finish_set, send_set
from agents.drivers.zfs_streams import modes_of, sent
from agents.drivers.zfs_swap import SwapWish, restore_set
from agents.program.running import Run, UsageMeter
from agents.program.zfs_hosts import host_of

DatasetMessage = protocol.DatasetWork | protocol.DatasetRestoreWork | protocol.DatasetCheckWork
GUID = "guid:"


def run_dataset(run: Run, work: DatasetMessage, node_directory: Path) -> None:
    """Do the work and tell the gate how it ended."""
    if isinstance(work, protocol.DatasetWork):
        _back_up(run, work, host_of(node_directory, work.node))
    elif isinstance(work, protocol.DatasetRestoreWork):
        _restore(run, work, host_of(node_directory, work.node))
    else:
        _check(run, work)
    run.end()


def _back_up(run: Run, work: protocol.DatasetWork, source: Host) -> None:
    meter = UsageMeter()
    wish = SendWish(
        source=work.source,
        disk=work.disk,
        snapshot=work.snapshot,
        chain=work.chain,
        bases=[Base(one.place, one.guid) for one in work.bases],
        kept=frozenset(work.kept),
        known=frozenset(work.known),
        bytes_per_second=work.bandwidth_bytes_per_second,
    )

    def tell(done_bytes: int, total_bytes: int) -> None:
        run.heart.tell(
            protocol.Progress(phase="sending", done_bytes=done_bytes, total_bytes=total_bytes, stored_bytes=done_bytes)
        )

    done = send_set(source, Host(), wish, tell=tell, cancel=run.heart.stopped)
    run.client.copied(
        protocol.CopyDone(
            sha256=GUID + done.guid,
            file_bytes=done.written_bytes,
            size_bytes=done.size_bytes,
            read_bytes=done.moved_bytes,
            usage=meter.read(),
            facts=protocol.FactsMessage(full_reason=done.full_reason),
            place=done.place,
        )
    )
    # Should this be killed before, a sweep does it: the control plane knows the backup.
    with suppress(DriverError):
        finish_set(Host(), done.place)


def _restore(run: Run, work: protocol.DatasetRestoreWork, target: Host) -> None:
    """The target stays what it was until the swap: nothing is incomplete on the way."""
    meter = UsageMeter()

    def tell(done_bytes: int) -> None:
        run.heart.tell(protocol.Progress(phase="restoring", done_bytes=done_bytes, total_bytes=work.size_bytes))

    wish = SwapWish(dataset=work.target, disk=work.disk, tag=work.tag, create=work.create, tell=tell)
    written_bytes = restore_set(Host(), work.place, target, wish, cancel=run.heart.stopped)
    run.client.restore_done(protocol.RestoreDone(written_bytes=written_bytes, usage=meter.read()))


def _check(run: Run, work: protocol.DatasetCheckWork) -> None:
    """Sending reads every block of the snapshot, and ZFS compares each with its checksum.

    What is encrypted is read as it lies there: its key is not on this node.
    """
    meter, outcome, message, host = UsageMeter(), "ok", "", Host()
    dataset, _, name = work.place.partition("@")
    found = next((one for one in host.snapshots(dataset) if one.name == name), None)
    if found is None:
        outcome, message = "missing", f"{work.place} is not on the pool any more."
    elif found.guid != work.guid:
        outcome, message = "damaged", f"{work.place} is another snapshot than the backup's."
    else:
        done_bytes = 0
        for step in sent(host, [*modes_of(host, dataset), work.place], cancel=run.heart.stopped):
            done_bytes += len(step)
            run.heart.tell(protocol.Progress(phase="reading the dataset", done_bytes=done_bytes))
    run.client.copy_checked(protocol.CopyChecked(outcome=outcome, message=message, usage=meter.read()))
