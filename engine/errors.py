"""Errors of the engine: one root, a stable code each, and a flag that says whether trying again can help.

Trouble of the source (the disk that is read) and of the store (the vault) are different types, because a
caller treats them differently: the first may be one skipped source, the second ends the session.
"""

from __future__ import annotations

from collections.abc import Sequence


class EngineError(Exception):
    """Root of all errors that the engine raises on purpose."""

    default_code = "engine_error"
    default_transient = False

    def __init__(self, message: str, *, code: str | None = None, transient: bool | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or self.default_code
        self.transient = self.default_transient if transient is None else transient

    @property
    def permanent(self) -> bool:
        return not self.transient


class CanceledError(EngineError):
    default_code = "canceled"


class FormatError(EngineError):
    """The bytes do not follow the format, or ask for something this version does not know."""

    default_code = "bad_format"


class UnsupportedError(FormatError):
    """A newer version or an unknown required feature: refuse instead of guessing."""

    default_code = "unsupported_format"


class IntegrityError(EngineError):
    """The bytes are well-formed, but are not what the key, the hash or the signature vouches for."""

    default_code = "integrity"


class SignatureError(IntegrityError):
    default_code = "bad_signature"


class KeyMismatchError(EngineError):
    """A key is missing, is not the right one, or does not match its commitment."""

    default_code = "key_mismatch"


class BaseMismatchError(EngineError):
    """The earlier backup cannot serve as a base (other block size, tenant, source ...); write a full one."""

    default_code = "base_mismatch"


class TargetTooSmallError(EngineError):
    default_code = "target_too_small"


class SourceError(EngineError):
    """Trouble on the side that is read; drivers derive their own errors from it."""

    default_code = "source_error"


class StoreError(EngineError):
    """Trouble on the side of the vault."""

    default_code = "store_error"


class StoreNotFoundError(StoreError):
    default_code = "store_not_found"


class StoreDeniedError(StoreError):
    default_code = "store_denied"


class StoreContractError(StoreError):
    """The store answered in a way that breaks what we rely on, such as a PUT without a version id."""

    default_code = "store_contract"


class DamagedError(EngineError):
    """All but `ranges` (offset, length in bytes, ascending) was restored; those were left untouched."""

    default_code = "damaged"

    def __init__(self, ranges: Sequence[tuple[int, int]]) -> None:
        self.ranges = tuple(ranges)
        total_bytes = sum(length for _, length in self.ranges)
        super().__init__(f"{total_bytes} bytes in {len(self.ranges)} ranges could not be restored")
