"""Take a signed release of the agent program in; it is offered to nobody until a ring is set."""

from __future__ import annotations

import base64
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from agents.releases import import_release
from common.errors import BackupsiteError


class Command(BaseCommand):
    help = "Take in a release of the agent program that was signed with the release key."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("file", type=Path, help="the file that the manifest names")
        parser.add_argument("--manifest", type=Path, required=True, help="the signed manifest, JSON")
        parser.add_argument("--signature", type=Path, required=True, help="its signature, in base64")

    def handle(self, *arguments: Any, **options: Any) -> None:
        try:
            signature = base64.b64decode(options["signature"].read_text().strip(), validate=True)
            release = import_release(
                manifest=options["manifest"].read_bytes(), signature=signature, file=options["file"], actor=None
            )
        except (OSError, ValueError) as error:
            raise CommandError(f"A file cannot be read: {error}") from error
        except BackupsiteError as error:
            raise CommandError(error.message) from error
        self.stdout.write(f"{release} was taken in. Set its ring on the page of releases, or by the API.")
