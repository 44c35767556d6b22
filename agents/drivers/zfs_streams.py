"""A stream from one `zfs` to another, or to and from a file: counted, limited, canceled, and its end checked."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain

from agents.drivers.base import DriverError
from agents.drivers.zfs_commands import Host, StreamCutError, words_of
from agents.drivers.zfs_head import Head, split_head
from engine.throttle import Throttle
from engine.waiting import Background, Cancel, check_cancel

STEP_BYTES = 256 * 1024
END_SECONDS = 600
Tell = Callable[[int], None]


def modes_of(source: Host, dataset: str) -> list[str]:
    """What is encrypted leaves its pool encrypted, always: one chain never mixes both."""
    if is_encrypted(source, dataset):
        return ["-w"]
    return ["-L", "-e", "-c"] if source.abilities.compressed else []


def is_encrypted(host: Host, dataset: str) -> bool:
    return host.abilities.raw and host.value(dataset, "encryption") not in {"off", "-", ""}


def sent(host: Host, arguments: Sequence[str], *, cancel: Cancel) -> Iterator[bytes]:
    """What `zfs send` writes, to its end. Raises what the program says when it ends otherwise."""
    process = host.start("send", *arguments)
    try:
        with Background(name="send", cancel=cancel) as reading:
            stream = process.stdout
            while stream is not None and (step := reading.call(lambda: stream.read(STEP_BYTES))):
                yield step
        if process.wait(END_SECONDS) != 0:
            raise host.error(words_of(process), process.returncode)
    finally:
        _end(process)


def receive(
    host: Host,
    dataset: str,
    steps: Iterable[bytes],
    *,
    options: Callable[[Head], Sequence[str]],
    bytes_per_second: int = 0,
    tell: Tell = lambda _: None,
    cancel: Cancel,
) -> int:
    """Give the steps to `zfs receive`; how many bytes they were. Raises what either side says.

    `options` of the program for what the stream is; properties of a stream never count (StreamRefusedError, see
    `zfs_head`). Nothing is mounted. A sender that fails is told of as the reason, also when the receiver complained
    about it first.
    """
    rest = iter(steps)
    head, first = split_head(rest)
    if head is None:
        raise StreamCutError(f"The stream to {dataset} ended before it began.")
    process, count = host.start("receive", "-u", *options(head), dataset, reads=True), 0
    throttle = None
    if bytes_per_second:
        throttle = Throttle(bytes_per_second=bytes_per_second, clock=time.monotonic, sleep=time.sleep, cancel=cancel)
    try:
        try:
            with Background(name="receive", cancel=cancel) as writing:
                for step in chain([first], rest):
                    check_cancel(cancel)
                    if throttle is not None:
                        throttle.take(len(step))
                    writing.call(lambda step=step: _write(process, step))  # type: ignore[misc]  # bound at once
                    count += len(step)
                    tell(count)
        except BrokenPipeError:
            # It went: its words say why.
            pass
        _close(process)
        if process.wait(END_SECONDS) != 0:
            raise host.error(words_of(process), process.returncode)
    except DriverError:
        # What came so far is kept by a receiver that can go on with it: let it see the end of the stream.
        _close(process)
        _wait(process)
        raise
    finally:
        _end(process)
    return count


def _write(process: subprocess.Popen[bytes], step: bytes) -> None:
    view = memoryview(step)
    while process.stdin is not None and view:
        view = view[process.stdin.write(view) :]


def _close(process: subprocess.Popen[bytes]) -> None:
    if process.stdin is not None and not process.stdin.closed:
        try:
            process.stdin.close()
        except BrokenPipeError:
            return


def _wait(process: subprocess.Popen[bytes]) -> None:
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        return


def _end(process: subprocess.Popen[bytes]) -> None:
    """Whatever happened, no process and no pipe is left."""
    _close(process)
    if process.poll() is None:
        process.kill()
    process.wait()
    for stream in (process.stdout, process.stderr):
        if stream is not None:
            stream.close()
