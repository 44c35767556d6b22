"""`python -m tests.bench.grants`: how many grants one core gives a second, ledger included, and botocore beside it."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from engine.store.http import PutSpec
    from vaults.grants import GrantContext

BATCH = 64
BATCHES = 100
AIM_PER_SECOND = 1000
REPORT = Path(__file__).resolve().parents[2] / "var" / "bench" / "grants.json"


@dataclass(frozen=True, slots=True)
class Rate:
    per_second: float
    cpu_ms_each: float


def main() -> None:
    """Print the figures, and write them for whoever compares."""
    _stay_on_one_core()
    context = _prepare()
    batches = [_specs(context, number) for number in range(BATCHES)]
    figures = {
        "grants with ledger": _rate(lambda: [_grant(context, batch) for batch in batches]),
        "the same asked again": _rate(lambda: [_grant(context, batch) for batch in batches]),
        "signing alone": _rate(lambda: [_sign(context, batch) for batch in batches]),
        "botocore, signing alone": _rate(lambda: [_sign_by_botocore(context, batch) for batch in batches]),
    }
    told = {name: {"per_second": rate.per_second, "cpu_ms": rate.cpu_ms_each} for name, rate in figures.items()}
    for name, rate in figures.items():
        print(f"{name:28} {rate.per_second:10,.0f} a second   {rate.cpu_ms_each:6.3f} CPU ms each")
    good = figures["grants with ledger"].per_second >= AIM_PER_SECOND
    print(f"aim: {AIM_PER_SECOND:,} a second on one core, batches of {BATCH}: {'kept' if good else 'MISSED'}")
    REPORT.parent.mkdir(parents=True, exist_ok=True)
    REPORT.write_text(json.dumps({"batch": BATCH, "grants": BATCH * BATCHES, "figures": told}, indent=1) + "\n")


def _stay_on_one_core() -> None:
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})


def _prepare() -> GrantContext:
    """A fresh SQLite file as the service uses it (synchronous=FULL), with one vault and one domain."""
    os.environ["DJANGO_SETTINGS_MODULE"] = "tests.settings"
    import django

    django.setup()
    from django.conf import settings
    from django.core.management import call_command
    from django.db import connection
    from pydantic import SecretStr

    from tests.factories import make_tenant, make_vault
    from vaults.grants import GrantContext
    from vaults.models import Domain

    call_command("migrate", verbosity=0)
    settings.CONFIG.s3_signer_access_key = "AKIDEXAMPLE"
    settings.CONFIG.s3_signer_secret_key = SecretStr("secret" * 6)
    with connection.cursor() as cursor:
        cursor.execute("PRAGMA synchronous")
        if cursor.fetchone()[0] != 2:
            raise SystemExit("the database does not sync each transaction: the figure would mean nothing")
    vault = make_vault(make_tenant())
    domain = Domain.objects.create(tenant=vault.tenant, vault=vault, wrapped_id_key=b"k", wrapped_map_key=b"k")
    now = datetime.now(UTC)
    return GrantContext(domain=domain, session_id=uuid.uuid4(), now=now, retain_until=now + timedelta(days=26))


def _specs(context: GrantContext, number: int) -> list[PutSpec]:
    from engine.store.http import PutSpec

    prefix = f"t/{context.domain.tenant_id}/d/{context.domain.pk}/p/"
    specs = []
    for place in range(BATCH):
        data = f"{number} {place}".encode()
        sha256, md5 = hashlib.sha256(data).hexdigest(), base64.b64encode(hashlib.md5(data).digest()).decode()
        specs.append(PutSpec(prefix + sha256, sha256, md5, 16 * 1024 * 1024))
    return specs


def _rate(work: Callable[[], object]) -> Rate:
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    count = BATCH * BATCHES
    return Rate(count / (time.perf_counter() - wall), (time.process_time() - cpu) / count * 1000)


def _grant(context: GrantContext, specs: list[PutSpec]) -> None:
    from vaults.grants import grant_puts

    if len(grant_puts(context, specs)) != BATCH:
        raise SystemExit("a batch was not granted whole")


def _sign(context: GrantContext, specs: list[PutSpec]) -> None:
    from vaults.grants import GRANT_LIFETIME
    from vaults.presign import BoundPut, ObjectPlace, presign_put
    from vaults.storage import Credential, signing_key_for

    vault = context.domain.vault
    key = signing_key_for(vault.endpoint, Credential.SIGNER)
    for spec in specs:
        checksum = base64.b64encode(bytes.fromhex(spec.sha256)).decode()
        put = BoundPut(spec.size_bytes, spec.md5_base64, checksum, context.retain_until)
        place = ObjectPlace(vault.endpoint.url, vault.bucket, spec.key)
        presign_put(signing_key=key, now=context.now, place=place, put=put, lifetime=GRANT_LIFETIME)


def _sign_by_botocore(context: GrantContext, specs: list[PutSpec]) -> None:
    from vaults.storage import Credential, client_for

    vault = context.domain.vault
    client = client_for(vault.endpoint, Credential.SIGNER)
    for spec in specs:
        params = {
            "Bucket": vault.bucket,
            "Key": spec.key,
            "ContentLength": spec.size_bytes,
            "ContentMD5": spec.md5_base64,
            "ChecksumSHA256": base64.b64encode(bytes.fromhex(spec.sha256)).decode(),
            "IfNoneMatch": "*",
            "ObjectLockMode": "COMPLIANCE",
            "ObjectLockRetainUntilDate": context.retain_until,
        }
        client.generate_presigned_url("put_object", Params=params, ExpiresIn=900)


if __name__ == "__main__":
    main()
