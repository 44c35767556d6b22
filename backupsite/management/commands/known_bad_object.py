"""`manage.py known_bad_object VAULT [KEY --reason TEXT --actor USERNAME]`: removal goes on without an object.

Without a key it lists what was acknowledged so far. Needs the lock-keeper's credential and the master key: the object
is tried once more before anything is written down.
"""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from backups.removal.known_bad import acknowledge_bad_object
from common.errors import BackupsiteError
from tenants.models import Person
from vaults.models import KnownBadObject, Vault


class Command(BaseCommand):
    help = "Says that an object which can never be taken in is known to be bad, or lists those that are."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("vault", help="name of the vault")
        parser.add_argument("key", nargs="?", help="key of the object, as the alarm names it; without it, list")
        parser.add_argument("--reason", default="", help="what you know about it")
        parser.add_argument("--actor", default="", help="user name of the SuperAdmin who says so")

    def handle(self, *args: Any, vault: str, key: str | None, reason: str, actor: str, **options: Any) -> None:
        found = Vault.objects.select_related("endpoint").filter(name=vault).first()
        if found is None:
            raise CommandError(f"There is no vault {vault}.")
        if key is None:
            for known in KnownBadObject.objects.filter(vault=found).order_by("created_at"):
                self._tell(known)
            return
        person = Person.objects.filter(username=actor, is_active=True).first()
        if person is None:
            raise CommandError(f"There is no person {actor or '(--actor)'} who is active.")
        try:
            self._tell(acknowledge_bad_object(vault=found, key=key, reason=reason, actor=person))
        except BackupsiteError as error:
            raise CommandError(error.message) from error

    def _tell(self, known: KnownBadObject) -> None:
        self.stdout.write(
            f"{known.key}\n  {known.refusal}\n  {known.actor_name}, {known.created_at:%Y-%m-%d}: {known.reason}\n"
            f"  kept until {known.kept_until:%Y-%m-%d}, with {known.needs.count()} objects that it names"
        )
