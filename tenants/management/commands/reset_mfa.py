"""`manage.py reset_mfa NAME`: for when the last SuperAdmin lost his second factor; with `--open` also for somebody who
cannot set one up because no code reaches him by mail."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone

from common.errors import BackupsiteError
from tenants.models import Person
from tenants.sign_in.factors import begin_anew, has_factor, reset_factors


class Command(BaseCommand):
    help = "Takes all second factors of a person and ends the sessions; it is in the audit."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("username")
        parser.add_argument(
            "--open",
            action="store_true",
            help="let the password alone set up a factor, for the days of grace: where there is no e-mail",
        )

    def handle(self, *args: Any, username: str, open: bool = False, **options: Any) -> None:
        person = Person.objects.filter(username=username).first()
        if person is None:
            raise CommandError(f"there is nobody called {username}")
        try:
            if not open or has_factor(person):
                reset_factors(person=person, actor=None)
        except BackupsiteError as error:
            raise CommandError(error.message) from error
        self.stdout.write(f"{username} has no second factor any more")
        if open:
            begin_anew(person, now=timezone.now())
            self.stdout.write("the password alone sets one up, for the days of grace")
