"""What ends the command before there is an answer, each with its exit code."""

from __future__ import annotations

REFUSED, BROKEN, NO_TRANSPORT, NO_LOGIN, INTERRUPTED, NO_ENCODING, NO_OUTPUT = 1, 2, 3, 4, 5, 8, 9
USAGE, NO_RESOURCE, NO_FORMAT = 11, 12, 13


class EsError(Exception):
    """A message for the person, which says what to do."""

    exit_code = BROKEN


class UsageError(EsError):
    exit_code = USAGE


class MissingResourceError(EsError):
    exit_code = NO_RESOURCE


class FormatError(EsError):
    exit_code = NO_FORMAT


class TransportError(EsError):
    """Nothing that is an answer came: no connection, no trust, no end within the time."""

    exit_code = NO_TRANSPORT


class OutputError(EsError):
    exit_code = NO_OUTPUT


class EncodingError(EsError):
    exit_code = NO_ENCODING


def exit_code_of(status: int) -> int:
    """Of the status of an answer."""
    if status < 400:
        return 0
    return REFUSED if status < 500 else BROKEN
