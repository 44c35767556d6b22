"""Making a vault real: bucket with Object Lock, default retention, the tenant's key. Runs in the control worker.

Every step can run twice; a vault that the store does not let lock is refused with the failing call named.
"""

from __future__ import annotations

import logging
from typing import Any

from botocore.exceptions import ClientError
from django.conf import settings
from django.db import IntegrityError, transaction
from django.utils import timezone

from common.errors import BackupsiteError, UnavailableError
from engine.crypto import generate_tenant_key
from vaults.keys import wrap_key
from vaults.models import Domain, TenantKey, Vault
from vaults.storage import Credential, client_for, error_code, translated

logger = logging.getLogger(__name__)

TENANT_KEY_PURPOSE = "tenant private key"
ID_KEY_PURPOSE = "domain id key"
MAP_KEY_PURPOSE = "domain map key"


class VaultRefusedError(BackupsiteError):
    """The store does not do what a vault needs."""

    code = "vault_refused"


def prepare_pending_vaults() -> None:
    """Prepare every vault that is still pending: the sweep behind a lost message or a store that was down."""
    for vault_id in Vault.objects.filter(status=Vault.Status.PENDING).values_list("id", flat=True):
        prepare_vault(vault_id=str(vault_id))


def prepare_vault(*, vault_id: str) -> None:
    """Make the bucket and the tenant's key, check the locks, and set the vault `ready` or `refused`."""
    vault = Vault.objects.select_related("endpoint", "tenant").get(pk=vault_id)
    if vault.status == Vault.Status.READY:
        return
    try:
        _make_bucket(vault)
        _ensure_tenant_key(vault)
        _check_lock(vault)
    except UnavailableError as error:
        logger.warning("vault not prepared yet", extra={"vault": vault.name, "reason": error.message})
        Vault.objects.filter(pk=vault.pk, status=Vault.Status.PENDING).update(
            refusal=error.message, checked_at=timezone.now()
        )
        return
    except VaultRefusedError as error:
        _settle(vault, status=Vault.Status.REFUSED, refusal=error.message)
        return
    _settle(vault, status=Vault.Status.READY, refusal="")


def _settle(vault: Vault, *, status: str, refusal: str) -> None:
    Vault.objects.filter(pk=vault.pk).update(status=status, refusal=refusal, checked_at=timezone.now())
    logger.info("vault prepared", extra={"vault": vault.name, "status": status, "reason": refusal})


def _make_bucket(vault: Vault) -> None:
    client = client_for(vault.endpoint, Credential.PROVISIONER)
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
    client = client_for(vault.endpoint, Credential.PROVISIONER)
    try:
        told = client.get_object_lock_configuration(Bucket=vault.bucket).get("ObjectLockConfiguration", {})
    except ClientError as error:
        raise VaultRefusedError(
            f"GetObjectLockConfiguration of {vault.bucket}: {error_code(error)}; the store cannot lock objects."
        ) from error
    if told.get("ObjectLockEnabled") != "Enabled":
        raise VaultRefusedError(f"The store made {vault.bucket} without Object Lock; it cannot keep backups safe.")
    with translated(vault, "GetBucketVersioning"):
        versioning = client.get_bucket_versioning(Bucket=vault.bucket).get("Status")
    if versioning != "Enabled":
        raise VaultRefusedError(f"The store made {vault.bucket} without versions; locks protect versions only.")


def _ensure_tenant_key(vault: Vault) -> None:
    if TenantKey.objects.filter(tenant=vault.tenant).exists():
        return
    pair = generate_tenant_key()
    wrapped = wrap_key(
        master_key=settings.CONFIG.master_key_bytes, key=pair.private, purpose=TENANT_KEY_PURPOSE, owner=vault.tenant_id
    )
    try:
        with transaction.atomic():
            TenantKey.objects.create(tenant=vault.tenant, public_key=pair.public, wrapped_private_key=wrapped)
    except IntegrityError:
        logger.info("tenant key was made by another worker", extra={"tenant": vault.tenant.name})


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
