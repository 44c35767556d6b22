"""Versions and delete markers that lie over the objects of the ledger: one alarm for each object, judged by its bytes.

    look_for_extra_versions(vault, now=...) -> Extras

A store without conditional create keeps a second version of an upload that was sent twice: the same bytes, harmless,
and told once. Other bytes were laid there by somebody who may write: that stays critical until they are gone. Either
way the version that was committed is the one that is read and locked, and nothing is deleted here.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from itertools import groupby, islice

from common.errors import BackupsiteError
from vaults import storage
from vaults.alarms import clear_alarm, raise_alarm
from vaults.inventory import DATA_PREFIX
from vaults.models import Alarm, StoredObject, Vault
from vaults.reading import MISSING_CODES, stream_object
from vaults.storage import Credential, ListedVersion, StorageRefusedError

logger = logging.getLogger(__name__)

MORE = "extra_versions_more"
# One pass reads so much to judge what is new; the rest is counted, and has its turn in the next one.
MOST_READ_BYTES = 16 << 30
MOST_VERSIONS_EACH = 20
_ROWS_AT_ONCE = 500


class Verdict(StrEnum):
    """What an extra version is. Its alarm is that of the verdict."""

    SAME = "same"
    OTHER = "other"
    MARKER = "marker"


CODES: Mapping[Verdict, str] = {
    Verdict.OTHER: "extra_version_other",
    Verdict.SAME: "extra_version_same",
    Verdict.MARKER: "marker_over_object",
}


@dataclass(slots=True)
class Extras:
    """What one pass found: keys by verdict, and of how many versions or objects it could not judge all."""

    found: dict[Verdict, set[str]] = field(default_factory=lambda: {verdict: set() for verdict in Verdict})
    unjudged_count: int = 0
    read_bytes: int = 0


def look_for_extra_versions_everywhere(*, now: datetime) -> None:
    """A pass over every vault; trouble with one does not keep the others waiting."""
    for vault in Vault.objects.select_related("endpoint").exclude(status=Vault.Status.PENDING).order_by("pk"):
        try:
            look_for_extra_versions(vault, now=now)
        except BackupsiteError as error:
            logger.warning("extra versions were not looked for", extra={"vault": vault.name, "reason": error.message})


def look_for_extra_versions(vault: Vault, *, now: datetime) -> Extras:
    """One pass over the listing. Raises UnavailableError for store trouble: then no alarm is cleared."""
    extras = Extras()
    crowded = _crowded(vault)
    while part := list(islice(crowded, _ROWS_AT_ONCE)):
        _judge_part(vault, part, extras, now=now)
    _clear_gone(vault, extras, now=now)
    _tell_more(vault, extras, now=now)
    return extras


def _crowded(vault: Vault) -> Iterator[tuple[str, list[ListedVersion]]]:
    """The keys with more than one entry, each with a bounded number of them."""
    listing = storage.list_versions(vault, prefix=DATA_PREFIX, credential=Credential.KEEPER)
    for key, group in groupby(listing, key=lambda version: version.key):
        versions = list(islice(group, MOST_VERSIONS_EACH + 1))
        if len(versions) > 1:
            yield key, versions


def _judge_part(
    vault: Vault, part: Sequence[tuple[str, list[ListedVersion]]], extras: Extras, *, now: datetime
) -> None:
    keys = [key for key, _ in part]
    known = StoredObject.objects.filter(vault=vault, key__in=keys).exclude(version_id="")
    rows = {row.key: row for row in known}
    remembered = _remembered(vault, keys)
    for key, versions in part:
        if key not in rows:
            continue
        row = rows[key]
        others = [version for version in versions if version.version_id != row.version_id]
        extras.unjudged_count += len(versions) > MOST_VERSIONS_EACH
        _tell_object(vault, row, others, remembered.get(key, {}), extras, now=now)


def _remembered(vault: Vault, keys: Iterable[str]) -> dict[str, dict[str, Verdict]]:
    """Key -> version id -> verdict, of earlier passes: the bytes of a version never change."""
    found: dict[str, dict[str, Verdict]] = {}
    alarms = Alarm.objects.filter(vault=vault, code__in=list(CODES.values()), subject__in=list(keys))
    for subject, details in alarms.values_list("subject", "details"):
        verdicts = {version_id: Verdict(told) for version_id, told in details.get("versions", {}).items()}
        found.setdefault(subject, {}).update(verdicts)
    return found


def _tell_object(
    vault: Vault,
    row: StoredObject,
    versions: Sequence[ListedVersion],
    remembered: Mapping[str, Verdict],
    extras: Extras,
    *,
    now: datetime,
) -> None:
    by_verdict: dict[Verdict, list[ListedVersion]] = {}
    for version in versions:
        verdict = remembered.get(version.version_id) or _judge(vault, row, version, extras)
        if verdict is not None:
            by_verdict.setdefault(verdict, []).append(version)
    for verdict, found in by_verdict.items():
        extras.found[verdict].add(row.key)
        told = {version.version_id: str(verdict) for version in found}
        if not _is_settled(vault, CODES[verdict], row.key, told):
            message = _message(row, verdict, found)
            raise_alarm(
                vault, code=CODES[verdict], subject=row.key, message=message, details={"versions": told}, now=now
            )


def _judge(vault: Vault, row: StoredObject, version: ListedVersion, extras: Extras) -> Verdict | None:
    """None when it is gone meanwhile, or cannot be judged now: then it is counted, and tried again in the next pass.

    The store's word for its bytes is not enough: who lays versions may have made two contents with one MD5.
    """
    if version.is_delete_marker:
        return Verdict.MARKER
    if version.size_bytes != row.size_bytes:
        return Verdict.OTHER
    if extras.read_bytes + version.size_bytes > MOST_READ_BYTES:
        extras.unjudged_count += 1
        return None
    extras.read_bytes += version.size_bytes
    try:
        sha256 = _sha256(vault, row.key, version.version_id)
    except StorageRefusedError as error:
        extras.unjudged_count += error.extra.get("store_code") not in MISSING_CODES
        return None
    return Verdict.SAME if sha256 == row.sha256 else Verdict.OTHER


def _sha256(vault: Vault, key: str, version_id: str) -> str:
    hasher = hashlib.sha256()
    for piece in stream_object(vault, StoredObject(key=key, version_id=version_id)):
        hasher.update(piece)
    return hasher.hexdigest()


def _is_settled(vault: Vault, code: str, key: str, told: Mapping[str, str]) -> bool:
    """Whether a person knows of all these versions already, and was told that nothing is left to be done."""
    closed = Alarm.objects.filter(vault=vault, code=code, subject=key, acknowledged_at__isnull=False)
    known = {
        version_id
        for details in closed.exclude(cleared_at=None).values_list("details", flat=True)
        for version_id in details.get("versions", {})
    }
    return code != CODES[Verdict.OTHER] and set(told) <= known


def _message(row: StoredObject, verdict: Verdict, versions: Sequence[ListedVersion]) -> str:
    ids = ", ".join(version.version_id for version in versions)
    if verdict is Verdict.MARKER:
        return (
            f"A delete marker lies over {row.key}: {ids}. It hides nothing from the service, which reads by version. "
            "None of its keys makes markers: find out who did."
        )
    if verdict is Verdict.SAME:
        return (
            f"{row.key} is there twice, with the same bytes ({row.size_bytes} each): version {ids}. A store without "
            "conditional create does that when an upload is sent again. It only takes up space."
        )
    return (
        f"Other bytes lie over {row.key}: version {ids}. The version of the backup is untouched, and it is the one "
        "that is read. Somebody who may write to this vault laid them there: find out who, and delete them."
    )


def _clear_gone(vault: Vault, extras: Extras, *, now: datetime) -> None:
    """Alarms whose version was not found any more; none while some were not judged, for it may be among them."""
    if extras.unjudged_count:
        return
    for verdict, code in CODES.items():
        standing = Alarm.objects.standing().filter(vault=vault, code=code).values_list("subject", flat=True)
        for subject in set(standing) - extras.found[verdict]:
            clear_alarm(vault, code=code, subject=subject, now=now)


def _tell_more(vault: Vault, extras: Extras, *, now: datetime) -> None:
    if not extras.unjudged_count:
        clear_alarm(vault, code=MORE, now=now)
        return
    message = (
        f"{extras.unjudged_count} extra versions could not be judged at once; the next passes go on. If the number "
        "grows, find out who writes to this vault."
    )
    raise_alarm(vault, code=MORE, message=message, now=now)
