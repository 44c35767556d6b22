"""`manage.py demo_rows`: the rows of the demo, as JSON on standard output. For the launcher."""

from __future__ import annotations

import json
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand

from backupsite.demo_rows import write_demo_rows


class Command(BaseCommand):
    help = "Makes the demo's tenant, servers and persons; prints ids, logins and a short-lived token as JSON."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--disk-size-bytes", type=int, required=True)

    def handle(self, *args: Any, disk_size_bytes: int, **options: Any) -> None:
        self.stdout.write(json.dumps(write_demo_rows(disk_size_bytes=disk_size_bytes)))
