"""Deleting a definition together with its backups. What is locked stays in the vault until its lock ends."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from django.db import transaction
from django.db.models import Count, Max, Q, Sum

from backups.models import Backup, BackupQuerySet
from backups.services import remove_backups
from common.confirming import refuse_unconfirmed
from definitions.models import Definition
from definitions.services import Fate, delete_definition
from tenants.models import Person


@dataclass(frozen=True, slots=True)
class Parting:
    """What goes with a definition: how many backups, what they hold in bytes that no other backup needs, and locks.

    `locked_until` is the end of the last lock that was promised; None: nothing is locked.
    """

    backups: int
    unique_bytes: int
    locked: int
    locked_until: datetime | None


def parting_of(definition: Definition, *, now: datetime) -> Parting:
    """What deleting the definition with its backups would take."""
    locked = Q(immutable_until__gt=now)
    figures = _backups(definition).aggregate(
        backups=Count("pk"),
        unique_bytes=Sum("unique_bytes", default=0),
        locked=Count("pk", filter=locked),
        locked_until=Max("immutable_until", filter=locked),
    )
    return Parting(**figures)


@transaction.atomic
def delete_with_backups(*, definition: Definition, confirmation: str, actor: Person | None, now: datetime) -> Parting:
    """Take all of its backups out of the catalogue, and then the definition. Returns what went.

    Raises InvalidInputError unless `confirmation` is its name, ConflictError while one of its backups is being made or
    restored, NotAllowedError where a restricted policy gives it, ApprovalNeededError where a rule asks for a second
    person. Then nothing is deleted.
    """
    lost = "All backups of the definition are deleted with it."
    refuse_unconfirmed(confirmation, name=definition.name, of="the definition", lost=lost)
    parting = parting_of(definition, now=now)
    remove_backups(backups=_backups(definition).order_by("created_at", "pk"), actor=actor, now=now)
    delete_definition(definition=definition, backups=Fate.DELETE, actor=actor, now=now)
    return parting


def _backups(definition: Definition) -> BackupQuerySet:
    return Backup.objects.in_catalogue().filter(definition=definition)
