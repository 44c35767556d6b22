"""The session's key envelope: stored before the first object that only its data key opens.

So the packs of a run that was cut stay readable for the tenant, and a later run of the same source may refer to them.
"""

from __future__ import annotations

from engine.backup import WriteContext
from engine.crypto import SessionKeys
from engine.envelope import seal_envelope
from engine.hashing import sha256_hex
from engine.store.base import ObjectKind, ObjectRef
from engine.upload import Uploader


def ensure_envelope(*, context: WriteContext, keys: SessionKeys, uploader: Uploader) -> ObjectRef:
    """Return when the envelope is stored. One per uploader, however often it is asked for."""
    if uploader.envelope is not None:
        return uploader.envelope
    data = seal_envelope(
        session=keys,
        domain_keys=context.domain_keys,
        tenant=context.tenant,
        domain=context.domain,
        tenant_public_key=context.tenant_public_key,
    )
    sha256 = sha256_hex(data)
    uploader.submit(ObjectKind.KEY, data, sha256=sha256)
    uploader.drain()
    uploader.envelope = uploader.stored[bytes.fromhex(sha256)]
    return uploader.envelope
