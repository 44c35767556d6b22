"""`manage.py prove_locks BACKUP`: what the store itself says about a backup's packs, and that it refuses to delete one.

Run with a credential that may delete (BACKUPSITE_S3_REAPER_*): only then it is the lock that refuses, not a policy.
"""

from __future__ import annotations

import json
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from backups.models import Backup
from vaults.proof import prove_lock


class Command(BaseCommand):
    help = "Prints lock mode and date of a backup's packs as the store reports them, and tries to delete one."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("backup", help="id of a backup")

    def handle(self, *args: Any, backup: str, **options: Any) -> None:
        found = Backup.objects.select_related("vault__endpoint", "manifest").filter(pk=backup).first()
        if found is None or found.manifest is None:
            raise CommandError("There is no finished backup with this id.")
        self.stdout.write(json.dumps(prove_lock(vault=found.vault, manifest=found.manifest), default=str))
