"""Programs of others: one call with an answer, or a child whose bytes are read or that takes bytes. Never a shell.

A child gets the environment that it needs and no more: secrets of the worker are not in it. It ends with the block at
the latest. Its words on standard error are kept in a file without a name, so that it never waits for a reader.
"""

from __future__ import annotations

import errno
import fcntl
import os
import select
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import IO, BinaryIO, TypeAlias, cast

from agents.drivers.base import DriverError
from engine.waiting import Cancel, check_cancel, never_cancel

_CALL_SECONDS = 120.0
_POLL_SECONDS = 0.2
_TERMINATE_SECONDS = 1.0
_WORDS_BYTES = 64 * 1024
_PIPE_BYTES = 1024 * 1024

# What an error is called, from the program's words; its exit status is -N for a signal.
Explain: TypeAlias = Callable[[str, int], DriverError]


class ProgramMissingError(DriverError):
    """A program is not installed on this node."""

    code = "program_missing"


class ProgramHangsError(DriverError):
    """A program did not end in time."""

    code = "program_hangs"
    permanent = False


def environment(*names: str) -> dict[str, str]:
    """Variables by which programs are found and speak English, and these of the worker's own where they are set."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", *names) if name in os.environ}
    return {**kept, "LC_ALL": "C"}


def answer(
    *command: str,
    explain: Explain,
    env: Mapping[str, str] | None = None,
    given: str = "",
    timeout_seconds: float = _CALL_SECONDS,
) -> str:
    """What the program printed. Raises what `explain` makes of its words."""
    try:
        done = subprocess.run(  # noqa: S603  # an argument list without a shell
            command,
            input=given.encode(),
            capture_output=True,
            env=environment() if env is None else env,
            timeout=timeout_seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise ProgramHangsError(f"{command[0]} did not end within {timeout_seconds:.0f} s.") from None
    except OSError as error:
        raise _not_started(command, error) from error
    if done.returncode != 0:
        raise explain(_text(done.stderr), done.returncode)
    return done.stdout.decode("utf-8", "surrogateescape")


class Child:
    """A program while it runs, and the one pipe to or from it. One thread may read what another one ends."""

    def __init__(
        self, process: subprocess.Popen[bytes], *, pipe: IO[bytes], words: IO[bytes], explain: Explain
    ) -> None:
        self._process = process
        self._pipe = pipe
        self._words = words
        self._explain = explain

    @property
    def output(self) -> BinaryIO:
        """What it prints."""
        return cast(BinaryIO, self._pipe)

    def write(self, data: bytes | memoryview, /) -> int:
        """Bytes that it took: none when it is busy for some tenths of a second. Raises its own error once it ended."""
        ready = select.poll()
        ready.register(self._pipe, select.POLLOUT)
        if not ready.poll(_POLL_SECONDS * 1000):
            return 0
        try:
            return os.write(self._pipe.fileno(), data[:_PIPE_BYTES])
        except BlockingIOError:
            return 0
        except OSError as error:
            self._wait(never_cancel, seconds=_CALL_SECONDS)
            # It ended well: what it does not read, it does not need.
            return len(data) if error.errno == errno.EPIPE else 0

    def check_complete(self) -> None:
        """After its last byte was read. Raises when it did not end well."""
        self._wait(never_cancel, seconds=_CALL_SECONDS)

    def finish(self, cancel: Cancel) -> None:
        """After the last byte was written; what it still does then may take hours."""
        with suppress(OSError):
            self._pipe.close()
        self._wait(cancel)

    def _wait(self, cancel: Cancel, *, seconds: float | None = None) -> None:
        waited = 0.0
        while True:
            try:
                status = self._process.wait(_POLL_SECONDS)
                break
            except subprocess.TimeoutExpired:
                check_cancel(cancel)
                waited += _POLL_SECONDS
                if seconds is not None and waited > seconds:
                    raise ProgramHangsError(
                        f"The program did not end within {seconds:.0f} s of its last byte."
                    ) from None
        if status != 0:
            raise self._error()

    def _error(self) -> DriverError:
        self._words.seek(0)
        return self._explain(_text(self._words.read(_WORDS_BYTES)), self._process.returncode)

    def end(self) -> None:
        """Asked first: a client of a server tells it to stop. Twice is once."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(_TERMINATE_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        with suppress(OSError):
            self._pipe.close()


@contextmanager
def running(
    *command: str, explain: Explain, env: Mapping[str, str] | None = None, takes_bytes: bool = False
) -> Iterator[Child]:
    """The program is started, and gone when the block ends."""
    with tempfile.TemporaryFile() as words:
        try:
            process = subprocess.Popen(  # noqa: S603  # an argument list without a shell
                command,
                stdin=subprocess.PIPE if takes_bytes else subprocess.DEVNULL,
                stdout=subprocess.DEVNULL if takes_bytes else subprocess.PIPE,
                stderr=words,
                env=environment() if env is None else env,
            )
        except OSError as error:
            raise _not_started(command, error) from error
        pipe = process.stdin or process.stdout
        child = Child(process, pipe=cast(IO[bytes], pipe), words=words, explain=explain)
        try:
            _widen(child.output, takes_bytes=takes_bytes)
            yield child
        finally:
            child.end()


def _widen(pipe: IO[bytes], *, takes_bytes: bool) -> None:
    with suppress(OSError):  # beyond what the system lets a user have
        fcntl.fcntl(pipe.fileno(), fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
    os.set_blocking(pipe.fileno(), not takes_bytes)


def _not_started(command: Sequence[str], error: OSError) -> DriverError:
    if isinstance(error, FileNotFoundError):
        return ProgramMissingError(f"There is no program {command[0]} on this node.")
    return ProgramMissingError(f"{command[0]} cannot be started: {error.strerror}.")


def _text(words: bytes) -> str:
    return words.decode("utf-8", "replace").strip()
