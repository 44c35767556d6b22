"""The settings of a bucket, compared with those it had when its vault became ready.

Somebody who can change them outside of the service could let objects expire or open the bucket to others; locks on
what is there already hold, yet a person must know within minutes. Nothing is changed back here. What was changed on
purpose a SuperAdmin accepts (`vaults.acceptance`): exactly what the last look found.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from botocore.exceptions import ClientError
from django.db import transaction

from common.errors import UnavailableError
from vaults.alarms import clear_alarm, raise_alarm
from vaults.models import Vault
from vaults.storage import Credential, StorageRefusedError, error_code, probing_client_for, translated

logger = logging.getLogger(__name__)

ALARM = "settings_changed"
LIFECYCLE_MISSING = frozenset({"NoSuchLifecycleConfiguration", "NotImplemented", "501"})
# What a store answers when a setting was never made; each is written down as the code, so that its making is seen.
_ABSENT = LIFECYCLE_MISSING | {
    "NoSuchBucketPolicy",
    "NoSuchPublicAccessBlockConfiguration",
    "ObjectLockConfigurationNotFoundError",
}
Settings = dict[str, Any]


def _lock(client: Any, bucket: str) -> Any:
    return client.get_object_lock_configuration(Bucket=bucket).get("ObjectLockConfiguration", {})


def _versioning(client: Any, bucket: str) -> Any:
    return client.get_bucket_versioning(Bucket=bucket).get("Status", "never enabled")


def _lifecycle(client: Any, bucket: str) -> Any:
    return client.get_bucket_lifecycle_configuration(Bucket=bucket).get("Rules", [])


def _policy(client: Any, bucket: str) -> Any:
    text = client.get_bucket_policy(Bucket=bucket).get("Policy", "")
    try:
        return json.loads(text)
    except ValueError:
        return text


def _public_access(client: Any, bucket: str) -> Any:
    return client.get_public_access_block(Bucket=bucket).get("PublicAccessBlockConfiguration", {})


_LOCK = "object lock and default retention"
_SETTINGS: Mapping[str, tuple[str, Callable[[Any, str], Any]]] = {
    _LOCK: ("GetObjectLockConfiguration", _lock),
    "versioning": ("GetBucketVersioning", _versioning),
    "lifecycle rules": ("GetBucketLifecycleConfiguration", _lifecycle),
    "policy": ("GetBucketPolicy", _policy),
    "public access block": ("GetPublicAccessBlock", _public_access),
}


def read_settings(vault: Vault) -> Settings:
    """All settings by name, as JSON values; one that the store does not know is its error code.

    Raises UnavailableError when the store does not answer or refuses to tell: then nothing may be concluded.
    """
    client = probing_client_for(vault.endpoint, Credential.PROVISIONER)
    return {name: _told(vault, client, call, read) for name, (call, read) in _SETTINGS.items()}


def _told(vault: Vault, client: Any, call: str, read: Callable[[Any, str], Any]) -> Any:
    with translated(vault, call):
        try:
            value = read(client, vault.bucket)
        except ClientError as error:
            if error_code(error) not in _ABSENT:
                raise
            return error_code(error)
    # Dates become text, and what is compared is what the database gives back.
    return json.loads(json.dumps(value, default=str, sort_keys=True))


def note_settings(vault: Vault) -> None:
    """Write down the settings when a vault becomes ready for the first time; later they are only compared."""
    if not Vault.objects.filter(pk=vault.pk, settings_seen={}).exists():
        return
    settings_seen = read_settings(vault)
    Vault.objects.filter(pk=vault.pk, settings_seen={}).update(settings_seen=settings_seen)


def locks_objects(vault: Vault) -> bool:
    """Whether the last look at the bucket found Object Lock switched on; True as long as nobody looked."""
    lock = (vault.settings_found or vault.settings_seen).get(_LOCK)
    return lock is None or (isinstance(lock, dict) and lock.get("ObjectLockEnabled") == "Enabled")


def differences(before: Settings, now: Settings) -> list[str]:
    """One sentence per changed setting, with the old and the new value. Pure."""
    names = [name for name in sorted({*before, *now}) if before.get(name) != now.get(name)]
    return [f"{name}: was {_shown(before.get(name))}, is {_shown(now.get(name))}" for name in names]


def _shown(value: Any) -> str:
    return json.dumps(value, sort_keys=True) if value not in (None, "", [], {}) else "not set"


def check_drift_everywhere(*, now: datetime) -> None:
    """Each vault whose settings were noted, refused ones as well: they keep backups, too."""
    for vault_id in Vault.objects.exclude(settings_seen={}).values_list("pk", flat=True):
        check_drift(vault_id=str(vault_id), now=now)


def check_drift(*, vault_id: str, now: datetime) -> None:
    """Raise the alarm `settings_changed` when a setting differs, clear it when all are as they were.

    What differs is written down whole, for a person to accept; settings that cannot be read are nothing to accept.
    """
    vault = Vault.objects.select_related("endpoint").get(pk=vault_id)
    if not vault.settings_seen:
        return
    settings_found: Settings = {}
    try:
        settings_found = read_settings(vault)
        found = differences(vault.settings_seen, settings_found)
    except StorageRefusedError as error:
        found = [f"they cannot be read any more: {error.message}"]
    except UnavailableError as error:
        logger.warning("settings of a vault could not be read", extra={"vault": vault.name, "reason": error.message})
        return
    _tell(vault, settings_found, found, now=now)


@transaction.atomic
def _tell(vault: Vault, settings_found: Settings, found: list[str], *, now: datetime) -> None:
    current = Vault.objects.select_for_update().get(pk=vault.pk)
    if current.settings_seen != vault.settings_seen:
        return  # A person accepted others while they were read: the next look decides.
    current.settings_found = settings_found if found else {}
    current.save(update_fields=["settings_found"])
    if found:
        message = f"Settings of the bucket {vault.bucket} were changed outside of the service. " + "; ".join(found)
        raise_alarm(vault, code=ALARM, message=message, now=now)
    else:
        clear_alarm(vault, code=ALARM, now=now)
