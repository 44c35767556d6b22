"""The head of the chain outside of the database: one line a day, in a file of the service and in its log.

Who cuts off the end of the chain, or makes all of it anew, leaves a database that agrees with itself. What was said of
it elsewhere still names the number and hash that were there. The log goes where the operator sends logs; the file is
the copy that `verify_audit` reads by itself.
"""

from __future__ import annotations

import logging
import os
import re
from datetime import datetime, timedelta
from pathlib import Path

from django.conf import settings

from tenants.audit_chain import Finding, seal_pending, verify
from tenants.models.audit import AuditCheck, AuditHead
from tenants.models.core import Person
from tenants.notices import publish

logger = logging.getLogger(__name__)

_LINE = re.compile(r"^\S+ (\d{1,18}) ([0-9a-f]{64})$")
KEPT_CHECKS = timedelta(days=365)
# One record a second would be sealed in a few rounds of this.
MOST_ROUNDS = 200


def heads_file() -> Path:
    folder: Path = settings.CONFIG.data
    return folder.absolute() / "audit" / "heads.txt"


def publish_head(*, now: datetime) -> None:
    """Append the newest number and hash to the file, synced, and say them in the log. Nothing for an empty chain."""
    head = AuditHead.objects.filter(pk=1).first()
    if head is None or head.sequence == 0:
        return
    path = heads_file()
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with path.open("a", encoding="ascii") as file:
        file.write(f"{now.isoformat(timespec='seconds')} {head.sequence} {head.hash}\n")
        file.flush()
        os.fsync(file.fileno())
    logger.warning("audit head", extra={"sequence": head.sequence, "hash": head.hash})


def published_heads() -> list[tuple[int, str]]:
    """What was published so far, from the file. Lines that a crash left half written are passed over."""
    try:
        lines = heads_file().read_text(encoding="ascii", errors="replace").splitlines()
    except FileNotFoundError:
        return []
    return [(int(found[1]), found[2]) for line in lines if (found := _LINE.match(line))]


def seal_all() -> None:
    """What a crash left without a number."""
    for _ in range(MOST_ROUNDS):
        if not seal_pending():
            return


def check_audit(*, now: datetime) -> Finding:
    """The daily look over the whole chain. A break is kept for the portal's audit page, goes to the log as an error and
    to every SuperAdmin by e-mail, again with each look; the head of a chain that is whole is published."""
    seal_all()
    finding = verify(heads=published_heads())
    broken = finding.broken
    AuditCheck.objects.filter(at__lt=now - KEPT_CHECKS).delete()
    check = AuditCheck.objects.create(
        at=now,
        head_sequence=finding.head_sequence,
        head_hash=finding.head_hash,
        broken_at=broken.sequence if broken else None,
        reason=broken.reason if broken else "",
    )
    if broken is not None:
        logger.critical("the audit was tampered with", extra={"number": broken.sequence, "reason": broken.reason})
        _tell_super_admins(check)
        return finding
    publish_head(now=now)
    return finding


def _tell_super_admins(check: AuditCheck) -> None:
    publish(
        event="audit.broken",
        tenant=None,
        subject=check,
        facts={"number": check.broken_at, "reason": check.reason},
        name=f"broken at number {check.broken_at}",
        unasked=list(Person.objects.filter(is_superuser=True, is_active=True)),
        at=check.at,
    )
