"""THE table of what people and programs can be told of. Pure; the only place where it is written.

An event that is not in the table cannot be published, and a fact that its row does not name is not sent: what leaves
the service is decided here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum


class Severity(IntEnum):
    """The greater, the worse; the same figures as those of alarms."""

    INFO = 1
    WARNING = 2
    CRITICAL = 3


class Audience(StrEnum):
    """Who may ask for an event. What he then is told of is only what he can see at that moment."""

    EVERYBODY = "everybody"  # also a VmOwner, of his own servers
    ADMINISTRATORS = "administrators"  # DCAdmins of the tenant
    PERSON = "person"  # the person whom it is about, SuperAdmins, and what is told to a tenant: its administrators
    SUPER_ADMINS = "super_admins"  # nobody else


_WORK = ("server", "definition", "backup", "job", "code", "message")


@dataclass(frozen=True, slots=True)
class EventKind:
    """One row. `text` is a sentence about the subject's name; `facts` are all that may be told beside it.

    `recovers` names the events whose cause is gone when this one is published with the same cause.
    """

    severity: Severity
    audience: Audience
    text: str
    facts: tuple[str, ...] = ()
    recovers: frozenset[str] = field(default_factory=frozenset)


_INFO, _WARNING, _CRITICAL = Severity.INFO, Severity.WARNING, Severity.CRITICAL
_ALL, _ADMINISTRATORS, _PERSON = Audience.EVERYBODY, Audience.ADMINISTRATORS, Audience.PERSON
_SUPER_ADMINS = Audience.SUPER_ADMINS

CATALOGUE: Mapping[str, EventKind] = {
    "backup.ok": EventKind(
        _INFO,
        _ALL,
        "A backup of {name} was made.",
        _WORK,
        recovers=frozenset({"backup.failed", "backup.missed", "backup.late"}),
    ),
    "backup.failed": EventKind(_CRITICAL, _ALL, "A backup of {name} failed.", _WORK),
    "backup.missed": EventKind(_WARNING, _ALL, "A backup of {name} was not made at its time.", _WORK),
    "backup.late": EventKind(_WARNING, _ALL, "A backup of {name} is late.", _WORK),
    "backup.stale": EventKind(_CRITICAL, _ALL, "The last good backup of {name} is too old.", _WORK),
    "backup.unverified": EventKind(_WARNING, _ALL, "The backups of {name} were not checked for long.", _WORK),
    "backup.unlocked": EventKind(
        _CRITICAL, _ALL, "The newest backup of {name} is not locked as it was promised.", _WORK
    ),
    "backup.protected": EventKind(
        _INFO,
        _ALL,
        "{name} is protected again.",
        _WORK,
        recovers=frozenset({"backup.stale", "backup.unverified", "backup.unlocked"}),
    ),
    "verify.damaged": EventKind(
        _CRITICAL, _ALL, "A backup of {name} cannot be restored in full.", (*_WORK, "health", "damaged_bytes")
    ),
    "verify.whole": EventKind(
        _INFO, _ALL, "A backup of {name} is whole again.", (*_WORK, "health"), recovers=frozenset({"verify.damaged"})
    ),
    "drill.failed": EventKind(_CRITICAL, _ALL, "A restore drill of {name} failed.", _WORK),
    "drill.passed": EventKind(
        _INFO, _ALL, "A restore drill of {name} passed.", _WORK, recovers=frozenset({"drill.failed"})
    ),
    "restore.started": EventKind(_INFO, _ALL, "A restore to {name} began.", (*_WORK, "requested_by")),
    "restore.done": EventKind(_INFO, _ALL, "A restore to {name} is done.", (*_WORK, "requested_by")),
    "restore.failed": EventKind(_CRITICAL, _ALL, "A restore to {name} failed.", (*_WORK, "requested_by")),
    "vault.alarm": EventKind(
        _CRITICAL, _ADMINISTRATORS, "An alarm stands on the vault {name}.", ("code", "message", "alarm", "about")
    ),
    "vault.alarm_cleared": EventKind(
        _INFO,
        _ADMINISTRATORS,
        "An alarm on the vault {name} is over.",
        ("code", "message", "alarm", "about"),
        recovers=frozenset({"vault.alarm"}),
    ),
    "tenant.suspended": EventKind(_WARNING, _ADMINISTRATORS, "The tenant {name} was suspended.", ("reason",)),
    "tenant.resumed": EventKind(
        _INFO,
        _ADMINISTRATORS,
        "The tenant {name} is active again.",
        ("reason",),
        recovers=frozenset({"tenant.suspended"}),
    ),
    "quota.soft": EventKind(
        _WARNING, _ADMINISTRATORS, "{name} came near to a limit.", ("kind", "used", "soft", "hard")
    ),
    "quota.hard": EventKind(
        _CRITICAL, _ADMINISTRATORS, "{name} reached a limit: something was refused.", ("kind", "used", "soft", "hard")
    ),
    "approval.requested": EventKind(
        _WARNING, _ADMINISTRATORS, "A second person has to approve: {name}.", ("kind", "requested_by", "expires_at")
    ),
    "token.created": EventKind(_WARNING, _PERSON, "A new API token was made: {name}.", ("label", "address")),
    "sign_in.new_device": EventKind(
        _WARNING, _PERSON, "{name} signed in with a device that was not seen before.", ("address", "agent")
    ),
    "agent.enrolled": EventKind(_INFO, _ADMINISTRATORS, "The agent {name} was enrolled.", ("server",)),
    "agent.quarantined": EventKind(
        _CRITICAL, _ADMINISTRATORS, "The agent {name} may be on two machines.", ("server", "reason")
    ),
    "agent.trouble": EventKind(
        _CRITICAL,
        _ALL,
        "The agent on {name} trusts the control plane no longer, or could not be updated.",
        ("server", "code", "message"),
    ),
    "agent.silent": EventKind(_CRITICAL, _ALL, "The agent on {name} is silent.", ("server", "since")),
    "agent.back": EventKind(
        _INFO, _ALL, "The agent on {name} is back.", ("server", "since"), recovers=frozenset({"agent.silent"})
    ),
    "node.offline": EventKind(
        _CRITICAL, _SUPER_ADMINS, "The node {name} is not heard of any more: nothing runs there.", ("since",)
    ),
    "node.online": EventKind(
        _INFO, _SUPER_ADMINS, "The node {name} is heard of again.", ("since",), recovers=frozenset({"node.offline"})
    ),
    "audit.broken": EventKind(_CRITICAL, _SUPER_ADMINS, "The audit was tampered with: {name}.", ("number", "reason")),
    "webhook.disabled": EventKind(
        _WARNING, _ADMINISTRATORS, "The webhook {name} was switched off: it does not take what it is sent.", ("reason",)
    ),
    "webhook.undelivered": EventKind(
        _WARNING, _ADMINISTRATORS, "The webhook {name} did not take a message for a day.", ("event", "reason")
    ),
    "notice.test": EventKind(_INFO, _ADMINISTRATORS, "This is a test. Nothing has happened."),
}

# What can be over: such an event stays open until one says so.
RECOVERABLE = frozenset().union(*(kind.recovers for kind in CATALOGUE.values()))
# About deliveries themselves: they are told by e-mail only, for to tell them by webhook could go on for ever.
ABOUT_DELIVERY = frozenset({"webhook.disabled", "webhook.undelivered"})
# Made for one receiver on demand; nobody subscribes to it.
ON_DEMAND = frozenset({"notice.test"})


def kind_of(event: str) -> EventKind:
    """The row of the event. KeyError for one that the table does not know: never a guess."""
    return CATALOGUE[event]


def to_subscribe(*, by_webhook: bool, by_super_admin: bool = True) -> list[str]:
    """The events that can be asked for, in the table's order."""
    hidden = ON_DEMAND | (ABOUT_DELIVERY if by_webhook else frozenset())
    if not by_super_admin:
        hidden |= {event for event, kind in CATALOGUE.items() if kind.audience is _SUPER_ADMINS}
    return [event for event in CATALOGUE if event not in hidden]


def reported_facts(event: str, facts: Mapping[str, object]) -> dict[str, str | int | bool | None]:
    """Of the facts those that the table names, as plain values of bounded length."""
    return {name: _plain(facts[name]) for name in kind_of(event).facts if name in facts}


def _plain(value: object) -> str | int | bool | None:
    if value is None or isinstance(value, (bool, int)):
        return value
    return one_line(str(value), longest=500)


def one_line(text: str, *, longest: int) -> str:
    """The text without control characters, line ends and signs that turn the direction of writing."""
    kept = "".join(sign if sign.isprintable() else " " for sign in text)
    return " ".join(kept.split())[:longest]
