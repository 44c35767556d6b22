"""The probe's checks of the service's own credentials: each may do its task and no more.

Only the credentials that this process holds can be tried; the processes that hold the others try theirs.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from vaults.probe_subject import ProbeFailedError, Subject, call_name
from vaults.storage import Credential, holds

_DENIED = 403
_DATA = "t/probe-of-rights"
_OWN = "probe/probe-of-rights"


@dataclass(frozen=True, slots=True)
class Forbidden:
    """One call that a credential must be denied; none of them changes anything where it is allowed by mistake."""

    credential: Credential
    operation: str
    key: str
    parameters: dict[str, Any] = field(default_factory=dict)


_NO_VERSION = {"VersionId": "null"}
FORBIDDEN = (
    Forbidden(Credential.PROVISIONER, "get_object", _DATA),
    Forbidden(Credential.PROVISIONER, "create_multipart_upload", _DATA),
    Forbidden(Credential.PROVISIONER, "delete_object", _DATA, _NO_VERSION),
    Forbidden(Credential.KEEPER, "create_multipart_upload", _OWN),
    Forbidden(Credential.KEEPER, "delete_object", _OWN, _NO_VERSION),
    Forbidden(Credential.COPIER, "get_object", _OWN),
    Forbidden(Credential.COPIER, "delete_object", _OWN, _NO_VERSION),
    Forbidden(Credential.SIGNER, "delete_object", _OWN, _NO_VERSION),
    Forbidden(Credential.SIGNER, "list_object_versions", ""),
    Forbidden(Credential.REAPER, "get_object", _OWN),
    Forbidden(Credential.REAPER, "create_multipart_upload", _OWN),
    Forbidden(Credential.REAPER, "list_object_versions", ""),
)


def check_rights(subject: Subject) -> int:
    """Every forbidden call of the credentials that this process holds is denied. Returns how many were tried."""
    tried = [forbidden for forbidden in FORBIDDEN if holds(forbidden.credential)]
    for forbidden in tried:
        _check_denied(subject, forbidden)
    return len(tried)


def _check_denied(subject: Subject, forbidden: Forbidden) -> None:
    place = {"Key": forbidden.key} if forbidden.key else {}
    try:
        subject.call(forbidden.operation, by=forbidden.credential, **place, **forbidden.parameters)
    except ProbeFailedError as error:
        if error.status == _DENIED:
            return
        told = f"was not denied to the {forbidden.credential} ({error.refusal} instead)"
    else:
        told = f"was allowed to the {forbidden.credential}"
    where = f" on {forbidden.key}" if forbidden.key else ""
    raise ProbeFailedError(call_name(forbidden.operation), f"it {told}{where}; take this right from its key.")
