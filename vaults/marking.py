"""The mark: what the manifests in the vault need, read from the vault itself. Runs in the control worker.

Anything that cannot be read or does not agree with the ledger stops the whole run: nothing is condemned on a guess.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

from common.errors import ConflictError
from engine.errors import EngineError
from engine.manifest import ManifestBody, parse_manifest
from engine.store.base import ObjectKind
from vaults.models import StoredObject, Vault
from vaults.storage import Credential, read_object

_PARALLEL_READS = 4
_MANIFESTS_AT_ONCE = 64


class UnreadableManifestError(ConflictError):
    """A manifest that must be there is missing, altered or unknown to the ledger."""

    code = "manifest_unreadable"


def object_name(kind: str, sha256: bytes) -> bytes:
    """An object of one domain in few bytes: its kind and its hash."""
    return kind.encode("ascii") + sha256


def needed_names(
    vault: Vault, manifests: Iterable[StoredObject], *, trusted_writers: Collection[bytes]
) -> Iterator[tuple[StoredObject, set[bytes]]]:
    """Each manifest with the names of all that it needs, itself included.

    Raises UnreadableManifestError for the first that is not exactly what was committed, UnavailableError for store
    trouble. A few manifests are in memory at a time.
    """
    remaining = iter(manifests)
    with ThreadPoolExecutor(_PARALLEL_READS, thread_name_prefix="mark") as pool:
        while batch := list(islice(remaining, _MANIFESTS_AT_ONCE)):
            bodies = pool.map(lambda row: read_body(vault, row, trusted_writers=trusted_writers), batch)
            for row, body in zip(batch, bodies, strict=True):
                yield row, {object_name(row.kind, bytes.fromhex(row.sha256)), *_names(body)}


def read_body(vault: Vault, row: StoredObject, *, trusted_writers: Collection[bytes]) -> ManifestBody:
    """The clear part of one manifest, checked against its name and its signature."""
    data = read_object(vault, key=row.key, version_id=row.version_id, credential=Credential.KEEPER)
    if hashlib.sha256(data).hexdigest() != row.sha256:
        raise UnreadableManifestError(f"The manifest {row.key} is not in the vault as it was committed.")
    try:
        return parse_manifest(data, trusted_writers=trusted_writers).body
    except EngineError as error:
        raise UnreadableManifestError(f"The manifest {row.key} cannot be read: {error.message}.") from error


def _names(body: ManifestBody) -> Iterator[bytes]:
    for pack in body.packs:
        yield object_name(ObjectKind.PACK, pack.sha256)
    for segment in body.segments:
        yield object_name(ObjectKind.INDEX, segment.sha256)
    for session in body.sessions:
        yield object_name(ObjectKind.KEY, session.envelope.sha256)
