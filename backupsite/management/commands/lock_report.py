"""`manage.py lock_report [VAULT] [--json]`: whether every lock reaches as far as what was promised.

Reads the ledger only and needs no credential. Exit code 1 when a promise is not kept.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from argparse import ArgumentParser
from datetime import timedelta
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone

from backups.lock_coverage import coverage_of
from vaults.coverage import Coverage
from vaults.models import Vault


class Command(BaseCommand):
    help = "Compares the locks of all that backups need with their immutable-until dates."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("vault", nargs="?", help="name of a vault; without it, all")
        parser.add_argument("--json", action="store_true", help="one object per line, for programs")

    def handle(self, *args: Any, vault: str | None, json: bool, **options: Any) -> None:
        vaults = Vault.objects.order_by("name")
        if vault is not None:
            vaults = vaults.filter(name=vault)
            if not vaults:
                raise CommandError(f"There is no vault {vault}.")
        reports = [coverage_of(found, now=timezone.now()) for found in vaults]
        for report in reports:
            self.stdout.write(_as_json(report) if json else _as_text(report))
        if not all(report.is_kept for report in reports):
            sys.exit(1)


def _as_json(report: Coverage) -> str:
    facts = dataclasses.asdict(report) | {"kept": report.is_kept}
    return json.dumps(
        facts, default=lambda value: value.total_seconds() if isinstance(value, timedelta) else str(value)
    )


def _as_text(report: Coverage) -> str:
    slack = report.least_slack
    lines = [
        f"{report.vault}: {report.backup_count} backups, {report.violation_count} violations",
        f"  least slack over running promises: {_hours(slack) if slack is not None else 'none runs'}",
        f"  next end of a lock on something needed: {report.soonest_end or 'none'}",
        f"  needed, and its lock ends within a day or has ended: {report.ending_count}",
        *(f"  SHORT {found.backup_id} {found.key}: {found.reason}" for found in report.violations),
    ]
    return "\n".join(lines)


def _hours(slack: timedelta) -> str:
    return f"{slack.total_seconds() / 3600:.1f} h"
