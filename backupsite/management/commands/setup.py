"""`manage.py setup`: bring the database up to date and write the fixed rows. Running it twice changes nothing."""

from __future__ import annotations

from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management import call_command
from django.core.management.base import BaseCommand

from backupsite.installation import write_fixed_rows


class Command(BaseCommand):
    help = "Migrates the database and writes regions, affinity, the node and the periodic tasks."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--embedded", action="store_true", help="also the local node, its storage and the endpoints"
        )

    def handle(self, *args: Any, embedded: bool = False, **options: Any) -> None:
        settings.STATIC_ROOT.mkdir(parents=True, exist_ok=True)
        name = settings.DATABASES["default"]["NAME"]
        if "sqlite3" in settings.DATABASES["default"]["ENGINE"]:
            Path(name).parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        call_command("migrate", interactive=False, verbosity=0)
        # Only where the cache is a table, and only when it is not there.
        call_command("createcachetable", verbosity=0)
        write_fixed_rows(embedded=embedded)
        self.stdout.write("database is up to date")
