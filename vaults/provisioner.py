"""Making a vault real: bucket with Object Lock, default retention, the tenant's key. Runs in the control worker.

Every step can run twice; a vault whose store does not keep what is promised is refused with the failing call named.
"""

from __future__ import annotations

import logging
from datetime import datetime
from typing import Any

from django.conf import settings
from django.utils import timezone

from common.errors import BackupsiteError, UnavailableError
from vaults.custody import ensure_keys
from vaults.drift import note_settings
from vaults.keys import ID_KEY_PURPOSE, MAP_KEY_PURPOSE, wrap_key
from vaults.keys import TENANT_KEY_PURPOSE as TENANT_KEY_PURPOSE  # for those who still ask here
from vaults.models import Domain, Vault
from vaults.probe import ProbeFailedError, probe_vault
from vaults.probe_runs import Probe, due_vault, probe_again, run_probe
from vaults.storage import Credential, StorageRefusedError, probing_client_for, translated

logger = logging.getLogger(__name__)


class VaultRefusedError(BackupsiteError):
    """The store does not do what a vault needs."""

    code = "vault_refused"


def prepare_pending_vaults() -> None:
    """Prepare every vault that is still pending: the sweep behind a lost message or a store that was down."""
    for vault_id in Vault.objects.filter(status=Vault.Status.PENDING).values_list("id", flat=True):
        prepare_vault(vault_id=str(vault_id))


def prepare_vault(*, vault_id: str, probe: Probe = probe_vault) -> None:
    """Make the bucket and the tenant's key, probe the store, and set the vault `ready` or `refused`.

    A vault that was ready before is left to its nightly probe: a bucket that is gone must not be made again, empty.
    """
    vault = Vault.objects.select_related("endpoint", "tenant").get(pk=vault_id)
    if vault.status == Vault.Status.READY or vault.settings_seen:
        return
    try:
        _make_bucket(vault)
        _ensure_tenant_key(vault)
        _check_lock(vault)
        run_probe(vault, now=timezone.now(), probe=probe)
        note_settings(vault)
    except UnavailableError as error:
        logger.warning("vault not prepared yet", extra={"vault": vault.name, "reason": error.message})
        Vault.objects.filter(pk=vault.pk, status=Vault.Status.PENDING).update(
            refusal=error.message, checked_at=timezone.now()
        )
        return
    except (VaultRefusedError, ProbeFailedError) as error:
        _settle(vault, status=Vault.Status.REFUSED, refusal=error.message)
        return
    _settle(vault, status=Vault.Status.READY, refusal="")


def probe_next_due(*, now: datetime) -> None:
    """Probe one vault whose time has come: it takes seconds, and the worker has other work in between."""
    vault = due_vault(now)
    if vault is None:
        return
    if vault.settings_seen:
        probe_again(vault_id=str(vault.pk), now=now)
    else:
        prepare_vault(vault_id=str(vault.pk))


def _settle(vault: Vault, *, status: str, refusal: str) -> None:
    Vault.objects.filter(pk=vault.pk).update(status=status, refusal=refusal, checked_at=timezone.now())
    logger.info("vault prepared", extra={"vault": vault.name, "status": status, "reason": refusal})


def _make_bucket(vault: Vault) -> None:
    client = probing_client_for(vault.endpoint, Credential.PROVISIONER)
    try:
        with translated(vault, "CreateBucket"):
            client.create_bucket(Bucket=vault.bucket, ObjectLockEnabledForBucket=True)
    except UnavailableError as error:
        if error.extra.get("store_code") not in {"BucketAlreadyOwnedByYou", "BucketAlreadyExists"}:
            raise
    with translated(vault, "PutObjectLockConfiguration"):
        client.put_object_lock_configuration(Bucket=vault.bucket, ObjectLockConfiguration=_default_lock(vault))


def _default_lock(vault: Vault) -> dict[str, Any]:
    # A net under the object locks: whatever is ever written without headers is locked as well.
    retention = {"Mode": "COMPLIANCE", "Days": vault.immutable_days}
    return {"ObjectLockEnabled": "Enabled", "Rule": {"DefaultRetention": retention}}


def _check_lock(vault: Vault) -> None:
    client = probing_client_for(vault.endpoint, Credential.PROVISIONER)
    try:
        with translated(vault, "GetObjectLockConfiguration"):
            told = client.get_object_lock_configuration(Bucket=vault.bucket).get("ObjectLockConfiguration", {})
    except StorageRefusedError as error:
        raise VaultRefusedError(
            f"GetObjectLockConfiguration of {vault.bucket}: {error.extra['store_code']}; the store cannot lock objects."
        ) from error
    if told.get("ObjectLockEnabled") != "Enabled":
        raise VaultRefusedError(f"The store made {vault.bucket} without Object Lock; it cannot keep backups safe.")
    with translated(vault, "GetBucketVersioning"):
        versioning = client.get_bucket_versioning(Bucket=vault.bucket).get("Status")
    if versioning != "Enabled":
        raise VaultRefusedError(f"The store made {vault.bucket} without versions; locks protect versions only.")


def _ensure_tenant_key(vault: Vault) -> None:
    ensure_keys(vault.tenant)


def new_domain(vault: Vault, *, random_bytes: Any) -> Domain:
    """A dedup domain with fresh keys, wrapped by the master key."""
    domain = Domain(tenant_id=vault.tenant_id, vault=vault)
    master_key = settings.CONFIG.master_key_bytes
    domain.wrapped_id_key = wrap_key(
        master_key=master_key, key=random_bytes(32), purpose=ID_KEY_PURPOSE, owner=domain.id
    )
    domain.wrapped_map_key = wrap_key(
        master_key=master_key, key=random_bytes(32), purpose=MAP_KEY_PURPOSE, owner=domain.id
    )
    domain.save(force_insert=True)
    return domain
