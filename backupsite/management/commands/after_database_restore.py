"""`manage.py after_database_restore`: run it first after a database was brought back from a copy.

The vaults may hold backups that the copy does not know. Nothing is removed from any vault until each was compared
with the database and what is unknown was taken in.
"""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand
from django.utils import timezone

from backups.removal.rounds import fence_after_database_restore


class Command(BaseCommand):
    help = "Stops removal in all vaults until each was compared with the restored database."

    def handle(self, *args: Any, **options: Any) -> None:
        count = fence_after_database_restore(now=timezone.now())
        self.stdout.write(f"Removal is stopped in {count} vaults; each is compared with the database within the hour.")
