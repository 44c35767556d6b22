"""A restore drill: a backup is restored to a scratch file as to any disk, and compared; then the file is removed."""

from __future__ import annotations

from pathlib import Path

from agents import protocol
from agents.drivers.base import DiskUnreadableError, DriverError, WriteWish
from agents.drivers.registry import load_driver
from agents.program.backing_up import address_of
from agents.program.restoring import given_of
from agents.program.running import Means, Run, UsageMeter
from engine.restore import restore_disk


class DrillDifferentError(DriverError):
    """What lies in the scratch file after a restore without any error is not what the backup holds."""

    code = "drill_different"


def drill(run: Run, work: protocol.DrillWork, means: Means) -> None:
    """Whatever happens, the scratch file is gone afterwards; what a killed worker left of this drill goes first."""
    meter, disk = UsageMeter(), work.restore.disk
    scratch = Path(disk.storage_path, disk.path)
    _remove(scratch)
    try:
        written_bytes = _restore_and_compare(run, work.restore, means)
    finally:
        _remove(scratch)
    run.client.restore_done(protocol.RestoreDone(written_bytes=written_bytes, usage=meter.read()))
    run.end()


def _restore_and_compare(run: Run, work: protocol.RestoreWork, means: Means) -> int:
    """Bytes written. The second restore reads the file, and would write again what differs from the backup."""
    given = given_of(run, work, means)
    wish = WriteWish(address=address_of(work.disk), size_bytes=work.size_bytes, create=True)
    with load_driver(work.disk.driver).open_target(wish) as opened:
        first = restore_disk(target=opened.target, **given)
        opened.target.flush()
        second = restore_disk(target=opened.target, differential=True, **given)
    if second.written_bytes:
        raise DrillDifferentError(
            f"{second.written_bytes} bytes of the restored file were not those of the backup. Look at the node's disks "
            "and memory, and check the backup."
        )
    return first.written_bytes


def _remove(scratch: Path) -> None:
    try:
        scratch.unlink(missing_ok=True)
    except OSError as error:
        raise DiskUnreadableError(f"The scratch file {scratch} cannot be removed: {error.strerror}.") from error
