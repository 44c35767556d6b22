"""What the tool is told: options file and recovery key. Secrets never come from the command line."""

from __future__ import annotations

import getpass
import os
import stat
import sys
import tomllib
from collections.abc import Callable
from typing import TextIO

from engine.alone.s3 import S3Options
from engine.errors import EngineError
from engine.recovery import LINE_COUNT, RecoveryKey, RecoveryKeyError, check_line

_FILE_BYTES_MAX = 64 * 1024
_OPTIONS = {"bucket", "endpoint_url", "region", "profile", "access_key", "secret_key"}


class OptionsError(EngineError):
    """Something that the person has to give is missing or wrong."""

    default_code = "bad_options"


class UnsafeFileError(EngineError):
    """A file with a secret in it can be read by others."""

    default_code = "unsafe_file"


def read_options(path: str | None, given: dict[str, str | None]) -> S3Options:
    """The options file (TOML), with what was `given` on the command line laid over it. OptionsError."""
    values = _options_file(path) if path is not None else {}
    values |= {name: value for name, value in given.items() if value is not None}
    if not values.get("bucket"):
        raise OptionsError('name the bucket: --bucket NAME, or bucket = "NAME" in the options file')
    if bool(values.get("access_key")) != bool(values.get("secret_key")):
        raise OptionsError("the options file must hold access_key and secret_key, or neither")
    return S3Options(**values)


def _options_file(path: str) -> dict[str, str]:
    raw, mode = _read_file(path)
    try:
        values = tomllib.loads(raw.decode("utf-8"))
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise OptionsError(f"the options file {path} is not TOML") from error
    unknown = sorted(set(values) - _OPTIONS)
    if unknown or not all(isinstance(value, str) for value in values.values()):
        known = ", ".join(sorted(_OPTIONS))
        raise OptionsError(f"the options file {path} may hold these texts only: {known}")
    if "secret_key" in values:
        _check_private(path, mode)
    return values


def read_recovery_key(
    path: str | None,
    *,
    stdin: TextIO | None = None,
    ask: Callable[[str], str] = getpass.getpass,
    tell: Callable[[str], None] = lambda _: None,
) -> RecoveryKey:
    """From a private file, from standard input (`-`), or typed without echo. RecoveryKeyError, UnsafeFileError."""
    if path == "-":
        return RecoveryKey.decode((stdin or sys.stdin).read(_FILE_BYTES_MAX))
    if path is not None:
        return RecoveryKey.decode(_read_secret(path).decode("utf-8", "replace"))
    if not (stdin or sys.stdin).isatty():
        raise OptionsError("give the recovery key with --recovery-key-file FILE, or - for standard input")
    return _typed_key(ask, tell)


def _typed_key(ask: Callable[[str], str], tell: Callable[[str], None]) -> RecoveryKey:
    """Line by line, so that a slip is noticed at once; the whole key in one line is taken as well."""
    lines: list[str] = []
    while len(lines) < LINE_COUNT:
        place = len(lines) + 1
        text = ask(f"Recovery key, line {place} of {LINE_COUNT} (not shown): ")
        if not text.strip():
            raise RecoveryKeyError("no recovery key was typed")
        try:
            check_line(place, text)
        except RecoveryKeyError as error:
            if place == 1 and len("".join(text.split())) >= LINE_COUNT * 20:
                return RecoveryKey.decode(text)
            tell(f"{error}. Type line {place} again.")
            continue
        lines.append(text)
    return RecoveryKey.decode("\n".join(lines))


def _read_secret(path: str) -> bytes:
    data, mode = _read_file(path)
    _check_private(path, mode)
    return data


def _check_private(path: str, mode: int) -> None:
    if stat.S_IMODE(mode) & 0o077:
        raise UnsafeFileError(f"{path} holds a secret and others may read it: chmod 600 {path}")


def _read_file(path: str) -> tuple[bytes, int]:
    """Content and mode of the same open file. OptionsError."""
    try:
        with open(path, "rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            data = file.read(_FILE_BYTES_MAX + 1)
    except OSError as error:
        raise OptionsError(f"{path} cannot be read: {error.strerror}") from error
    if len(data) > _FILE_BYTES_MAX:
        raise OptionsError(f"{path} is too large")
    return data, mode
