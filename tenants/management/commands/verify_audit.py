"""`manage.py verify_audit [--first N] [--last N] [--head N:HASH]`: whether the chain of the audit is whole.

Reads every record again and compares it with the chain, with the heads that this machine published, and with heads that
somebody kept elsewhere. Exit code 1, and the first number that is wrong, when it is not whole.
"""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db import connection

from tenants import audit_guard
from tenants.audit_chain import verify
from tenants.audit_heads import published_heads, seal_all


class Command(BaseCommand):
    help = "Computes the hash chain of the audit again and tells the first record that is not as it was."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--first", type=int, default=1, help="number of the first record to read")
        parser.add_argument("--last", type=int, help="number of the last record to read; without it, all")
        parser.add_argument(
            "--head", action="append", default=[], help="NUMBER:HASH that was kept elsewhere; may be given again"
        )

    def handle(self, *args: Any, first: int, last: int | None, head: list[str], **options: Any) -> None:
        kept = [_parsed(text) for text in head]
        seal_all()
        finding = verify(first=first, last=last, heads=[*published_heads(), *kept])
        if finding.broken is not None:
            raise CommandError(f"The audit is broken at number {finding.broken.sequence}: {finding.broken.reason}.")
        gone = audit_guard.missing(connection)
        if gone:
            raise CommandError(f"The audit table lacks its triggers: {', '.join(gone)}. Migrate again.")
        self.stdout.write(
            f"The audit is whole: {finding.count} records, head {finding.head_sequence}:{finding.head_hash or 'none'}"
        )


def _parsed(text: str) -> tuple[int, str]:
    number, _, digest = text.partition(":")
    if not number.isdigit() or len(digest) != 64:
        raise CommandError(f"{text!r} is not NUMBER:HASH.")
    return int(number), digest
