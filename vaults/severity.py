"""THE table: how bad each alarm is, and what its going away means. Pure; the only place where it is written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum


class Severity(IntEnum):
    """The greater, the worse. INFO: nothing has to be done. WARNING: soon. CRITICAL: a promise is broken or may be."""

    INFO = 1
    WARNING = 2
    CRITICAL = 3


@dataclass(frozen=True, slots=True)
class AlarmKind:
    """`mended` is why such an alarm is cleared, for those who raise it say only that it is."""

    severity: Severity
    mended: str
    # Nothing is left to be mended once a person knows of it.
    closes_when_acknowledged: bool = False


_INFO, _WARNING, _CRITICAL = Severity.INFO, Severity.WARNING, Severity.CRITICAL

ALARM_KINDS: Mapping[str, AlarmKind] = {
    "condemned_object_needed": AlarmKind(_CRITICAL, "It was looked into."),
    "damaged_objects": AlarmKind(_CRITICAL, "No object is damaged any more: they are whole again, or removed."),
    "deleted_objects_there": AlarmKind(_WARNING, "A later comparison found no deleted object in the vault."),
    "extra_version_other": AlarmKind(_CRITICAL, "The version with other bytes is gone from the vault."),
    "extra_version_same": AlarmKind(_INFO, "The second version is gone from the vault.", closes_when_acknowledged=True),
    "extra_versions_more": AlarmKind(_WARNING, "All extra versions have alarms of their own, or are gone."),
    "keeper_down": AlarmKind(_CRITICAL, "The store answers the lock-keeper again."),
    "known_bad_objects": AlarmKind(_INFO, "What was known to be bad is gone from the vault, or was taken in."),
    "keys_not_rewrapped": AlarmKind(_WARNING, "All sessions are sealed to the tenant's key."),
    "ledger_date_absurd": AlarmKind(_CRITICAL, "No date of the ledger is beyond what the rules give."),
    "lock_shorter_than_ledger": AlarmKind(_CRITICAL, "The locks that were set again were found kept."),
    "locks_margin_low": AlarmKind(_WARNING, "Locks reach further than promises by the usual margin again."),
    "locks_short": AlarmKind(_CRITICAL, "Every object is locked for as long as backups were promised."),
    "marker_over_object": AlarmKind(_WARNING, "The delete marker is gone.", closes_when_acknowledged=True),
    "objects_altered": AlarmKind(_CRITICAL, "A later comparison found every object with its size."),
    "objects_missing": AlarmKind(_CRITICAL, "A later comparison found every object in the vault."),
    "probe_failed": AlarmKind(_CRITICAL, "A later probe found that the store keeps what is promised."),
    "reconciling_failed": AlarmKind(_WARNING, "A later round compared the vault with the ledger."),
    "removal_failed": AlarmKind(_WARNING, "A later removal run came to its end."),
    "removal_stopped": AlarmKind(_WARNING, "A later removal run found nothing in doubt."),
    "repacking_failed": AlarmKind(_WARNING, "A later repack came to its end."),
    "rights_too_wide": AlarmKind(_CRITICAL, "The key may do its task only."),
    "scrub_late": AlarmKind(_WARNING, "Every object was read in time."),
    "settings_changed": AlarmKind(_CRITICAL, "The settings of the bucket are as they were."),
    "unknown_objects": AlarmKind(_CRITICAL, "A later comparison found nothing that the ledger does not know."),
}
# A code that the table does not know yet must not be overlooked.
_UNKNOWN = AlarmKind(_CRITICAL, "Whoever raised it found its cause gone.")


def kind_of(code: str) -> AlarmKind:
    """The entry of the code; a code without one counts as critical."""
    return ALARM_KINDS.get(code, _UNKNOWN)
