"""Evidence that locks hold, from the store itself."""

from __future__ import annotations

from typing import Any

from botocore.exceptions import ClientError

from common.errors import ConflictError
from vaults.models import StoredObject, Vault
from vaults.storage import Credential, client_for, error_code, see_object


def prove_lock(*, vault: Vault, manifest: StoredObject) -> dict[str, Any]:
    """Lock of one pack of the backup as the store reports it, and its answer to an attempt to delete that version.

    Raises ConflictError when the store did delete it: then nothing in this vault is safe.
    """
    pack = StoredObject.objects.filter(used_by__manifest=manifest, kind="p").order_by("pk").first() or manifest
    seen = see_object(vault, key=pack.key, version_id=pack.version_id)
    try:
        client_for(vault.endpoint, Credential.REAPER).delete_object(
            Bucket=vault.bucket, Key=pack.key, VersionId=pack.version_id
        )
    except ClientError as error:
        refusal = error_code(error)
    else:
        raise ConflictError(f"The store deleted a locked object of {vault.name}.", code="lock_ignored")
    still = see_object(vault, key=pack.key, version_id=pack.version_id)
    return {
        "key": pack.key,
        "lock_mode": still.lock_mode,
        "retain_until": seen.retain_until,
        "delete_refused_with": refusal,
    }
