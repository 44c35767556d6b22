"""Reading stored objects with the keeper's credential: as a stream, and as the engine's source of ranges.

Runs in the control worker and its checks. Always by version id: a delete marker or a newer version hides nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from engine.errors import StoreDeniedError, StoreError, StoreNotFoundError
from engine.store.base import ObjectRef
from vaults import storage
from vaults.models import StoredObject, Vault
from vaults.storage import Credential, error_code, translated

# The store's word for "no such version"; everything else may be trouble that passes.
MISSING_CODES = frozenset({"404", "NoSuchKey", "NoSuchVersion", "NotFound"})
_CHUNK_BYTES = 1024 * 1024
_DENIED = frozenset({"403", "AccessDenied", "SignatureDoesNotMatch", "InvalidAccessKeyId"})


def stream_object(vault: Vault, row: StoredObject, *, fresh_connection: bool = False) -> Iterator[bytes]:
    """All bytes of the object's own version, in pieces of at most 1 MiB.

    `fresh_connection` closes the connections that are kept, in case one of them is at fault. Raises
    StorageRefusedError, StorageUnreachableError.
    """
    client = _keeper(vault)
    if fresh_connection:
        client.close()
    with translated(vault, "GetObject"):
        body = client.get_object(Bucket=vault.bucket, Key=row.key, VersionId=row.version_id)["Body"]
        try:
            while piece := body.read(_CHUNK_BYTES):
                yield piece
        finally:
            body.close()


class KeeperSource:
    """The engine's ObjectSource over one vault. Thread-safe.

    `versions` (by key) are used where a reference has none.
    """

    def __init__(self, vault: Vault, *, versions: Mapping[str, str]) -> None:
        self._vault = vault
        self._versions = versions

    def get(self, ref: ObjectRef, *, offset: int = 0, length: int | None = None) -> bytes:
        version_id = ref.version_id or self._versions.get(ref.key)
        if not version_id:
            raise StoreNotFoundError(f"{ref.key} is not in the ledger")
        end = ref.size_bytes if length is None else offset + length
        if end <= offset:
            return b""
        try:
            answer = _keeper(self._vault).get_object(
                Bucket=self._vault.bucket, Key=ref.key, VersionId=version_id, Range=f"bytes={offset}-{end - 1}"
            )
            data: bytes = answer["Body"].read()
        except ClientError as error:
            raise _store_error(ref, error_code(error)) from error
        except BotoCoreError as error:
            raise StoreError(
                f"{ref.key}: the vault does not answer", code="store_unreachable", transient=True
            ) from error
        return data


def _keeper(vault: Vault) -> Any:
    return storage.client_for(vault.endpoint, Credential.KEEPER)


def _store_error(ref: ObjectRef, code: str) -> StoreError:
    if code in MISSING_CODES or code in {"416", "InvalidRange"}:
        return StoreNotFoundError(f"{ref.key} is not there as it was committed ({code})")
    if code in _DENIED:
        return StoreDeniedError(f"the store denies reading {ref.key} ({code})", transient=True)
    return StoreError(f"the store failed on {ref.key} ({code})", code="store_failed", transient=True)
