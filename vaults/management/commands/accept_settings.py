"""`manage.py accept_settings VAULT [--accept DIGEST --actor NAME --reason TEXT]`: changed settings of a bucket.

Without --accept it shows what was changed, and the digest to accept it by. Needs no credential of the store: it goes by
what the control worker's last look found.
"""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone

from common.errors import BackupsiteError
from tenants.models import Person
from vaults.acceptance import accept_settings, digest_of, open_changes, weaknesses
from vaults.models import Vault


class Command(BaseCommand):
    help = "Shows settings of a vault's bucket that were changed, and accepts them in the name of a SuperAdmin."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("vault", help="name of the vault")
        parser.add_argument("--accept", metavar="DIGEST", help="as this command shows it")
        parser.add_argument("--actor", metavar="NAME", help="user name of the SuperAdmin who accepts")
        parser.add_argument("--reason", metavar="TEXT", default="", help="why the change is meant to be so; it is kept")

    def handle(self, *args: Any, vault: str, accept: str | None, actor: str | None, reason: str, **_: Any) -> None:
        found = Vault.objects.filter(name=vault).first()
        if found is None:
            raise CommandError(f"There is no vault {vault}.")
        if accept is None:
            self._show(found)
            return
        person = Person.objects.filter(username=actor or "", is_active=True).first()
        if person is None:
            raise CommandError("Name the SuperAdmin who accepts: --actor NAME.")
        try:
            accept_settings(found, digest=accept, reason=reason, actor=person, now=timezone.now())
        except BackupsiteError as error:
            raise CommandError(error.message) from None
        self.stdout.write("Accepted. These settings are the measure from now on.")

    def _show(self, vault: Vault) -> None:
        changes = open_changes(vault)
        if not changes:
            self.stdout.write("Nothing waits to be accepted.")
            return
        self.stdout.writelines(changes)
        for sentence in weaknesses(vault.settings_found, immutable_days=vault.immutable_days):
            self.stdout.write(f"CANNOT BE ACCEPTED: {sentence}")
        self.stdout.write(f"To accept: --accept {digest_of(vault)} --actor NAME --reason TEXT")
