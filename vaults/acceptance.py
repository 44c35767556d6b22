"""Changed settings of a bucket that are meant to be so: a SuperAdmin accepts them, with a reason that is kept.

He accepts what the last look found and he has seen, by its digest; so no credential is needed here, and what was
changed since then is a new difference within minutes. What breaks a hard condition of the probe is never accepted.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from django.db import transaction

from common.errors import ConflictError, InvalidInputError, NotAllowedError
from tenants.audit import record
from tenants.models import Person
from vaults.alarms import clear_alarm
from vaults.drift import ALARM, LIFECYCLE_MISSING, Settings, differences
from vaults.models import SettingsAcceptance, Vault
from vaults.probe_bucket import expires

logger = logging.getLogger(__name__)

LONGEST_REASON = 500
_DAYS_PER_YEAR = 365


def open_changes(vault: Vault) -> list[str]:
    """What differs between the accepted settings and those of the last look, in words; empty when nothing does."""
    return differences(vault.settings_seen, vault.settings_found) if vault.settings_found else []


def digest_of(vault: Vault) -> str:
    """Names what the last look found, so that nobody accepts what he has not seen; empty when nothing was."""
    if not vault.settings_found:
        return ""
    text = json.dumps([vault.settings_seen, vault.settings_found], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def weaknesses(found: Settings, *, immutable_days: int) -> list[str]:
    """What in these settings breaks a hard condition of the probe, each with what to do. Pure."""
    return [
        *_weak_lock(found.get("object lock and default retention"), immutable_days),
        *_weak_versioning(found.get("versioning")),
        *_weak_lifecycle(found.get("lifecycle rules")),
    ]


def _weak_lock(lock: Any, immutable_days: int) -> list[str]:
    if not isinstance(lock, Mapping) or lock.get("ObjectLockEnabled") != "Enabled":
        return ["Object Lock is off: switch it on again; a bucket without it cannot be a vault."]
    rule = lock.get("Rule")
    default = rule.get("DefaultRetention") if isinstance(rule, Mapping) else None
    wanted = f"set it to COMPLIANCE, {immutable_days} days or more"
    if not isinstance(default, Mapping):
        return [f"There is no default retention: {wanted}."]
    if default.get("Mode") != "COMPLIANCE":
        return [f"The default retention is {default.get('Mode')}, which rights can get past: {wanted}."]
    days = _days_of(default)
    if days < immutable_days:
        return [f"The default retention is {days} days only: {wanted}."]
    return []


def _days_of(default: Mapping[str, Any]) -> int:
    days, years = default.get("Days"), default.get("Years")
    if isinstance(days, int):
        return days
    return years * _DAYS_PER_YEAR if isinstance(years, int) else 0


def _weak_versioning(status: Any) -> list[str]:
    return [] if status == "Enabled" else ["Versions are not kept: enable versioning; locks protect versions only."]


def _weak_lifecycle(rules: Any) -> list[str]:
    """No rules, or the store's word that it knows none, is in order."""
    if isinstance(rules, str) and rules in LIFECYCLE_MISSING:
        return []
    if not isinstance(rules, list) or not all(isinstance(rule, Mapping) for rule in rules):
        return ["The lifecycle rules cannot be understood: remove them."]
    names = [str(rule.get("ID", "without a name")) for rule in rules if expires(rule)]
    return [f"The lifecycle rule {name!r} deletes by itself: remove it." for name in names]


@transaction.atomic
def accept_settings(vault: Vault, *, digest: str, reason: str, actor: Person, now: datetime) -> SettingsAcceptance:
    """Make what the last look found the measure from now on; the alarm is cleared with name and reason.

    `digest` is that of the settings that the person saw. Raises NotAllowedError for anybody but a SuperAdmin,
    InvalidInputError without a reason, ConflictError when there is nothing to accept, when it is something else by now,
    or when it breaks a hard condition (code `settings_too_weak`).
    """
    if not actor.is_superuser:
        raise NotAllowedError("Only a SuperAdmin accepts changed settings of a vault.")
    reason = _checked_reason(reason)
    current = Vault.objects.select_for_update().get(pk=vault.pk)
    _refuse(current, digest)
    accepted = SettingsAcceptance.objects.create(
        vault=current,
        actor=actor,
        actor_name=actor.username,
        reason=reason,
        before=current.settings_seen,
        after=current.settings_found,
    )
    current.settings_seen, current.settings_found = current.settings_found, {}
    current.save(update_fields=["settings_seen", "settings_found", "changed_at"])
    clear_alarm(current, code=ALARM, now=now, reason=f"The change was accepted by {actor.username}: {reason}")
    record(
        action="vault.accept_settings",
        subject=current,
        actor=actor,
        before=accepted.before,
        after={"reason": reason, "settings": accepted.after},
    )
    logger.warning("changed settings accepted", extra={"vault": current.name, "actor": actor.username})
    return accepted


def _checked_reason(reason: str) -> str:
    reason = reason.strip()
    if not reason:
        raise InvalidInputError("Say why the change is meant to be so; it is kept.", code="no_reason", field="reason")
    if len(reason) > LONGEST_REASON:
        raise InvalidInputError(f"A reason has at most {LONGEST_REASON} characters.", field="reason")
    return reason


def _refuse(vault: Vault, digest: str) -> None:
    if not open_changes(vault):
        raise ConflictError(
            f"No changed settings of the vault {vault.name} wait to be accepted. The next look is within 15 minutes.",
            code="no_settings_change",
        )
    if digest != digest_of(vault):
        raise ConflictError(
            "The settings were changed again after the ones that you saw. Look at them again.", code="settings_moved_on"
        )
    broken = weaknesses(vault.settings_found, immutable_days=vault.immutable_days)
    if broken:
        raise ConflictError(
            "These settings cannot be accepted: the vault would not keep what it promises. " + " ".join(broken),
            code="settings_too_weak",
        )
