"""Restoring without the service: the exact commands of the stand-alone tool for one backup. No secret is in it."""

from __future__ import annotations

import shlex

from backups.models import Backup

_DIGITS = 12


def restore_command(backup: Backup, *, names_vault: bool = True) -> str:
    """For a backup that has its manifest, with `vault.endpoint` and `manifest` loaded.

    Without `names_vault` the person fills in where the bucket is: not everybody may know.
    """
    return _command(backup, "restore", "--to", "TARGET", names_vault=names_vault)


def file_command(backup: Backup, *, names_vault: bool = True) -> str:
    """One file or folder of a backup of files, into a directory; as `restore_command`."""
    return _command(backup, "restore", "--to", "DIRECTORY", "--path", "PATH", names_vault=names_vault)


def facts_command(backup: Backup, *, names_vault: bool = True) -> str:
    """Shows disk layout, boot and packages of the server, which lie sealed in the manifest; as `restore_command`."""
    return _command(backup, "facts", names_vault=names_vault)


def _command(backup: Backup, name: str, *more: str, names_vault: bool) -> str:
    if backup.manifest is None:
        raise ValueError("a backup without a manifest cannot be restored")
    words = ["backupsite-restore", name, backup.manifest.sha256[:_DIGITS], *more]
    words += _place(backup) if names_vault else ["--bucket", "BUCKET", "--endpoint-url", "URL"]
    words += ["--tenant", str(backup.manifest.domain.tenant_id), "--domain", str(backup.manifest.domain_id)]
    return shlex.join(words)


def _place(backup: Backup) -> list[str]:
    endpoint = backup.vault.endpoint
    place = ["--bucket", backup.vault.bucket, "--endpoint-url", endpoint.url]
    return [*place, "--region", endpoint.signing_region]
