"""`python -m tests.bench.catalogue`: 1,000 manifests over 100,000 packs: the catalogue made again, and one mark.

The bucket is a folder of real manifests, envelopes and descriptions and a list of packs; the database is a real SQLite
file. Each step runs in a process of its own, so that its peak memory is its own. Prints figures beside the limits and
writes them to `var/bench/catalogue.json`.
"""

from __future__ import annotations

import hashlib
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

DOMAINS, MANIFESTS_PER_DOMAIN, PACKS_PER_DOMAIN = 100, 10, 1000
LIMITS = {"rebuild_seconds": 120.0, "mark_seconds": 60.0, "mark_peak_mib": 300.0}
RESULTS = Path("var/bench/catalogue.json")
MIB = 1024 * 1024
BUCKET = "backup-vault-bench"


def main() -> int:
    folder = Path(tempfile.mkdtemp(prefix="backupsite-bench-"))
    try:
        figures: dict[str, Any] = {}
        for step in ("build", "rebuild", "mark"):
            told = subprocess.run(
                [sys.executable, "-m", "tests.bench.catalogue", step, str(folder)],
                check=True,
                capture_output=True,
                text=True,
                env={**os.environ, **_environment(folder)},
            )
            figures |= json.loads(told.stdout.splitlines()[-1])
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text(json.dumps(figures, indent=2) + "\n")
    for name, value in figures.items():
        limit = LIMITS.get(name)
        print(f"{name:<28}{value:>12.1f}" + (f"   limit {limit:.0f}" if limit else ""))
    return 0 if all(figures[name] <= limit for name, limit in LIMITS.items()) else 1


def _environment(folder: Path) -> dict[str, str]:
    return {
        "DJANGO_SETTINGS_MODULE": "backupsite.settings",
        "BACKUPSITE_DATA": str(folder),
        "BACKUPSITE_DATABASE_URL": f"sqlite:///{folder / 'bench.sqlite3'}",
        "BACKUPSITE_SECRET_KEY": "bench",
        "BACKUPSITE_ROLE": "manage",
        "BACKUPSITE_MASTER_KEY": "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=",
        "BACKUPSITE_LOG_LEVEL": "ERROR",
    }


def build(folder: Path) -> dict[str, float]:
    """Write the bucket with the engine's own builders."""
    from engine.compression import Compressor
    from engine.crypto import (
        DomainKeys,
        generate_session_keys,
        generate_tenant_key,
        generate_writer_key,
    )
    from engine.description import DescriptionBody, DiskLabel, Labels, VaultFacts, build_description, description_key
    from engine.envelope import seal_envelope
    from engine.manifest import ManifestBody, ObjectEntry, SessionEntry, build_manifest, manifest_ref
    from engine.recovery import RecoveryKey
    from engine.store.base import ObjectKind, object_key

    tenant_key, writer, catalogue = generate_tenant_key(), generate_writer_key(), generate_writer_key()
    key = RecoveryKey(
        tenant_private_key=tenant_key.private, catalogue_fingerprint=hashlib.sha256(catalogue.public).digest()
    )
    (folder / "recovery-key").write_text(key.encode())
    tenant, listing, compressor = str(uuid4()), [], Compressor(None)

    def put(name: str, data: bytes) -> None:
        path = folder / "objects" / hashlib.sha256(name.encode()).hexdigest()
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
        listing.append([name, len(data)])

    for number in range(DOMAINS):
        domain, source = str(uuid4()), str(uuid4())
        keys, session = DomainKeys(os.urandom(32), os.urandom(32)), generate_session_keys(os.urandom)
        sealed = seal_envelope(
            session=session,
            domain_keys=keys,
            tenant=tenant,
            domain=domain,
            tenant_public_key=tenant_key.public,
        )
        sealed_sha256 = hashlib.sha256(sealed).hexdigest()
        put(object_key(tenant=tenant, domain=domain, kind=ObjectKind.KEY, sha256=sealed_sha256), sealed)
        packs = [ObjectEntry(os.urandom(32), 16 * MIB, f"v{n:032d}", 256) for n in range(PACKS_PER_DOMAIN)]
        for pack in packs:
            name = object_key(tenant=tenant, domain=domain, kind=ObjectKind.PACK, sha256=pack.sha256.hex())
            listing.append([name, pack.size_bytes, pack.version_id])
        for sequence in range(1, MANIFESTS_PER_DOMAIN + 1):
            body = ManifestBody(
                format_version=1,
                required_features=["fixed-blocks"],
                content="disk",
                tenant=tenant,
                domain=domain,
                source_id=source,
                sequence=sequence,
                previous_sha256=None,
                created_at=datetime(2026, 11, sequence, tzinfo=UTC).isoformat(),
                size_bytes=64 * 1024 * MIB,
                block_size=65536,
                fan_out=1024,
                counters={},
                sessions=[
                    SessionEntry(
                        session.session_id,
                        session.commitment,
                        ObjectEntry(bytes.fromhex(sealed_sha256), len(sealed), None, 1),
                        1,
                    )
                ],
                packs=packs[10 * sequence - 10 : PACKS_PER_DOMAIN - 100 + 10 * sequence],
                segments=[],
            )
            data = build_manifest(
                body,
                root=None,
                source_facts={"server": f"server-{number}", "disk": "1", "backup": f"daily-{sequence}"},
                map_key=keys.map_key,
                writer_key=writer,
                salt=os.urandom(16),
                compressor=compressor,
            )
            digest = hashlib.sha256(data).hexdigest()
            put(manifest_ref(body, sha256=digest, size_bytes=len(data), version_id=None).key, data)
        description = build_description(
            tenant=tenant,
            domain=domain,
            sequence=1,
            created_at=datetime(2026, 11, 20, tzinfo=UTC),
            writers=[writer.public],
            labels=Labels(
                tenant_title="Bench",
                server_name=f"server-{number}",
                disks=[DiskLabel(source_id=source, number=1, name="disk.img", size_bytes=64 * 1024 * MIB)],
                vault=VaultFacts(region="GRA", immutable_days=14),
                definitions=["daily"],
            ),
            map_key=keys.map_key,
            catalogue_key=catalogue,
            salt=os.urandom(16),
            compressor=compressor,
        )
        head = DescriptionBody(
            format_version=1,
            required_features=[],
            tenant=tenant,
            domain=domain,
            sequence=1,
            created_at="",
            writers=[],
        )
        put(description_key(head, sha256=hashlib.sha256(description).hexdigest()), description)
    listing.sort()
    (folder / "listing.json").write_text(json.dumps(listing))
    return {"manifests": DOMAINS * MANIFESTS_PER_DOMAIN, "packs": DOMAINS * PACKS_PER_DOMAIN}


class FolderBucket:
    """The tool's view of the folder; as the control plane's S3 client it answers GetObject."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "objects"
        self._listing: list[list[Any]] = json.loads((folder / "listing.json").read_text())

    def folders(self, prefix: str) -> list[str]:
        return sorted({name[len(prefix) :].split("/")[0] for name, *_ in self._listing if name.startswith(prefix)})

    def versions(self, prefix: str) -> Iterator[list[Any]]:
        from bisect import bisect_left

        from engine.alone.bucket import StoredVersion

        for name, size_bytes, *version in self._listing[bisect_left(self._listing, [prefix]) :]:
            if not name.startswith(prefix):
                return
            yield [StoredVersion(name, version[0] if version else "v1", size_bytes)]

    def read(self, version: Any, *, offset: int, length: int) -> Any:
        from engine.alone.bucket import StoredBytes

        return StoredBytes(self._bytes(version.key)[offset : offset + length], None)

    def size_of(self, *, key: str, version_id: str) -> int:
        return len(self._bytes(key))

    def get_object(self, *, Key: str, **_: Any) -> dict[str, Any]:
        import io

        return {"Body": io.BytesIO(self._bytes(Key))}

    def _bytes(self, key: str) -> bytes:
        return (self._folder / hashlib.sha256(key.encode()).hexdigest()).read_bytes()


def rebuild(folder: Path) -> dict[str, float]:
    """All rows from the folder, into an empty database."""
    import django

    django.setup()
    from unittest import mock

    from django.core.management import call_command
    from django.utils import timezone

    from backups.rebuild.run import rebuild_catalogue
    from engine.recovery import RecoveryKey
    from vaults.models import Endpoint, Region

    call_command("migrate", verbosity=0)
    endpoint = Endpoint.objects.create(region=Region.objects.create(code="GRA"), url="http://127.0.0.1:1")
    bucket = FolderBucket(folder)
    begun = time.perf_counter()
    with mock.patch("vaults.storage.client_for", lambda *_: bucket):
        result = rebuild_catalogue(
            bucket,
            bucket_name=BUCKET,
            endpoint=endpoint,
            recovery_key=RecoveryKey.decode((folder / "recovery-key").read_text()),
            now=timezone.now(),
        )
    seconds = time.perf_counter() - begun
    if result.problems or result.backup_count != DOMAINS * MANIFESTS_PER_DOMAIN:
        raise SystemExit(f"the catalogue is not whole: {result}")
    return {"rebuild_seconds": seconds, "rebuild_peak_mib": _peak_mib()}


def mark(folder: Path) -> dict[str, float]:
    """One mark over the rebuilt catalogue."""
    import django

    django.setup()
    from unittest import mock

    from django.utils import timezone

    from backups.removal.roots import find_roots
    from backups.removal.run import _mark
    from vaults.models import Vault

    bucket = FolderBucket(folder)
    bucket._listing.clear()
    with mock.patch("vaults.storage.client_for", lambda *_: bucket):
        begun = time.perf_counter()
        vault = Vault.objects.select_related("endpoint").get()
        found = _mark(vault, find_roots(vault), now=timezone.now())
        seconds = time.perf_counter() - begun
    if found.needed_count < DOMAINS * PACKS_PER_DOMAIN or found.unneeded:
        raise SystemExit(f"the mark is wrong: {found.needed_count} needed")
    return {"mark_seconds": seconds, "mark_peak_mib": _peak_mib()}


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    if len(sys.argv) == 1:
        sys.exit(main())
    print(json.dumps({"build": build, "rebuild": rebuild, "mark": mark}[sys.argv[1]](Path(sys.argv[2]))))
