"""`manage.py reset_mfa NAME`: for when the last SuperAdmin lost his second factor."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from common.errors import BackupsiteError
from tenants.models import Person
from tenants.sign_in.factors import reset_factors


class Command(BaseCommand):
    help = "Takes all second factors of a person and ends the sessions; it is in the audit."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("username")

    def handle(self, *args: Any, username: str, **options: Any) -> None:
        person = Person.objects.filter(username=username).first()
        if person is None:
            raise CommandError(f"there is nobody called {username}")
        try:
            reset_factors(person=person, actor=None)
        except BackupsiteError as error:
            raise CommandError(error.message) from error
        self.stdout.write(f"{username} has no second factor any more")
