"""What may need a second person, and the life of a request for one. Pure.

pending -> approved -> used
   |          |----> declined | withdrawn | expired
   `----> declined | withdrawn | expired
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum

# How long a request waits for an answer, and how long a given approval can be used.
WAITS = timedelta(hours=72)
GOOD_FOR = timedelta(hours=24)
# Whose account the requester changed this long before the request, or after it, cannot be the second person.
COOLING = timedelta(hours=72)
# With nobody else left, a rule is switched off alone; but not soon after others were sent away.
ALONE_AFTER = timedelta(days=7)


class ApprovalKind(StrEnum):
    TENANT_DELETE = "tenant.delete"
    RETENTION_SHORTEN = "retention.shorten"
    LOCK_SHORTEN = "lock.shorten"
    KEY_EXPORT = "key.export"
    KEY_REPLACE = "key.replace"
    RESTORE_ACROSS_OWNERS = "restore.across_owners"
    VAULT_REMOVE = "vault.remove"
    MFA_RESET = "mfa.reset"
    APPROVALS_OFF = "approvals.off"


class ApprovalStatus(StrEnum):
    PENDING = "pending"
    APPROVED = "approved"
    DECLINED = "declined"
    WITHDRAWN = "withdrawn"
    EXPIRED = "expired"
    USED = "used"


@dataclass(frozen=True, slots=True)
class KindFacts:
    """`title` in words; whether an administrator of the tenant may be the second person, or SuperAdmins only."""

    title: str
    tenant_admins: bool


KINDS: Mapping[ApprovalKind, KindFacts] = {
    ApprovalKind.TENANT_DELETE: KindFacts("Delete a tenant", tenant_admins=False),
    ApprovalKind.RETENTION_SHORTEN: KindFacts("Keep fewer backups", tenant_admins=True),
    ApprovalKind.LOCK_SHORTEN: KindFacts("Lock new backups for a shorter time", tenant_admins=True),
    ApprovalKind.KEY_EXPORT: KindFacts("Show a recovery key", tenant_admins=True),
    ApprovalKind.KEY_REPLACE: KindFacts("Put the customer's own key into use", tenant_admins=True),
    ApprovalKind.RESTORE_ACROSS_OWNERS: KindFacts("Restore to a server of other owners", tenant_admins=True),
    ApprovalKind.VAULT_REMOVE: KindFacts("Remove a vault", tenant_admins=False),
    ApprovalKind.MFA_RESET: KindFacts("Take a person's second factors", tenant_admins=False),
    ApprovalKind.APPROVALS_OFF: KindFacts("Switch an approval rule off", tenant_admins=True),
}
# What a rule can be made for. Switching a rule off always needs a second person as long as there is one.
RULE_KINDS = tuple(kind for kind in ApprovalKind if kind is not ApprovalKind.APPROVALS_OFF)
KIND_CHOICES = [(str(kind), KINDS[kind].title) for kind in ApprovalKind]
STATUS_CHOICES = [(str(status), str(status)) for status in ApprovalStatus]

_S = ApprovalStatus
MOVES: Mapping[ApprovalStatus, frozenset[ApprovalStatus]] = {
    _S.PENDING: frozenset({_S.APPROVED, _S.DECLINED, _S.WITHDRAWN, _S.EXPIRED}),
    _S.APPROVED: frozenset({_S.USED, _S.DECLINED, _S.WITHDRAWN, _S.EXPIRED}),
    _S.DECLINED: frozenset(),
    _S.WITHDRAWN: frozenset(),
    _S.EXPIRED: frozenset(),
    _S.USED: frozenset(),
}
OPEN = tuple(status for status in ApprovalStatus if MOVES[status])


def sources_of(status: ApprovalStatus) -> list[ApprovalStatus]:
    """From which states a request may come to this one."""
    return [source for source in ApprovalStatus if status in MOVES[source]]
