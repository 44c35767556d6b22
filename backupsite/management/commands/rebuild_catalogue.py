"""`manage.py rebuild_catalogue`: the database is gone; bucket and recovery key make the catalogue again.

The recovery key is read from a file that only its owner can read, or from standard input, never from the command line.
The process needs the master key (it may be a new one) and the lock-keeper's credential.
"""

from __future__ import annotations

import sys
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone

from backups.rebuild.run import rebuild_catalogue
from common.errors import BackupsiteError
from engine.alone.s3 import S3Bucket, S3Options
from engine.errors import EngineError
from engine.recovery import RecoveryKey
from vaults.models import Endpoint, Region


class Command(BaseCommand):
    help = "Makes tenants, vaults, servers, objects and backups again from a bucket and its recovery key."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("bucket", help="name of the bucket")
        parser.add_argument("--region", required=True, help="region code of the vault, such as GRA")
        parser.add_argument("--endpoint-url", help="address of the object storage; default: the region's endpoint")
        parser.add_argument("--recovery-key-file", type=Path, help="default: standard input")

    def handle(self, *args: Any, bucket: str, region: str, **options: Any) -> None:
        try:
            key = RecoveryKey.decode(_text(options["recovery_key_file"]))
            endpoint = _endpoint(region, options["endpoint_url"])
            credentials = settings.CONFIG
            opened = S3Bucket(
                S3Options(
                    bucket=bucket,
                    endpoint_url=endpoint.url,
                    region=endpoint.signing_region,
                    access_key=credentials.s3_keeper_access_key or None,
                    secret_key=credentials.s3_keeper_secret_key.get_secret_value() or None,
                )
            )
            result = rebuild_catalogue(
                opened,
                bucket_name=bucket,
                endpoint=endpoint,
                recovery_key=key,
                now=timezone.now(),
                tell=self.stdout.write,
            )
        except (BackupsiteError, EngineError) as error:
            raise CommandError(error.message) from error
        for problem in result.problems:
            self.stderr.write(f"not taken in: {problem}")
        self.stdout.write(
            f"{result.backup_count} backups with {result.object_count} objects in {result.domain_count} domains; "
            f"{result.foreign_count} domains belong to other recovery keys. "
            "Nothing is removed until the vault was compared with the database."
        )
        if not result.domain_count or result.problems:
            sys.exit(3)


def _text(path: Path | None) -> str:
    if path is None:
        return sys.stdin.read()
    try:
        if path.stat().st_mode & 0o077:
            raise CommandError(f"{path} can be read by others; run: chmod 600 {path}")
        return path.read_text(errors="replace")
    except OSError as error:
        raise CommandError(f"{path} cannot be read: {error.strerror}.") from error


def _endpoint(region_code: str, url: str | None) -> Endpoint:
    region, _ = Region.objects.get_or_create(code=region_code)
    present = Endpoint.objects.filter(region=region).first()
    if present is not None:
        return present
    return Endpoint.objects.create(region=region, url=url or settings.CONFIG.s3_endpoint)
