"""`manage.py rotate_master_key [--write]`: wrap every key in the database with another master key.

Both keys come from the environment, 32 bytes in base64: BACKUPSITE_MASTER_KEY (the present one) and
BACKUPSITE_NEW_MASTER_KEY. Without --write it only looks whether every row opens. Stop signer and control worker before,
and start them with the new key after.
"""

from __future__ import annotations

import base64
import binascii
import os
from argparse import ArgumentParser
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from common.errors import ConfigurationError
from vaults.master_key import rewrap_all

# Read here and nowhere else: no running process has a second master key.
NEW_KEY = "BACKUPSITE_NEW_MASTER_KEY"
_KEY_BYTES = 32


class Command(BaseCommand):
    help = "Re-wraps all keys from BACKUPSITE_MASTER_KEY to BACKUPSITE_NEW_MASTER_KEY; without --write only checks."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--write", action="store_true", help="change the rows (without: a dry run)")

    def handle(self, *args: Any, write: bool = False, **options: Any) -> None:
        try:
            old, new = settings.CONFIG.master_key_bytes, _new_key()
            counts = rewrap_all(old=old, new=new, write=write)
        except ConfigurationError as error:
            raise CommandError(f"Nothing was changed. {error.message}") from None
        for column, count in counts.items():
            self.stdout.write(f"{column}: {count}")
        self.stdout.write(
            "All keys are wrapped with the new master key now. Start signer and control worker with it."
            if write
            else "Every key opens. Nothing was changed; run again with --write."
        )


def _new_key() -> bytes:
    try:
        key = base64.b64decode(os.environ.get(NEW_KEY, ""), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if len(key) != _KEY_BYTES:
        raise ConfigurationError(f"{NEW_KEY} must be 32 bytes in base64.")
    if key == settings.CONFIG.master_key_bytes:
        raise ConfigurationError(f"{NEW_KEY} is the master key that is in use.")
    return key
