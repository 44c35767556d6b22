"""Whether a sign-in comes from a browser and an address that were not seen before, and telling of it.

A browser is known by what it says of itself without its version, an IPv6 address by its network: both change by
themselves, and a mail that comes too often is not read.
"""

from __future__ import annotations

import hashlib
import ipaddress
import re
from datetime import datetime, timedelta

from django.db import transaction
from django.http import HttpRequest

from tenants.models import FirstSignIn, KnownDevice, Person
from tenants.notices import publish
from tenants.notices.events import one_line
from tenants.origin import client_address

MOST_DEVICES = 50
FORGOTTEN_AFTER = timedelta(days=365)
_VERSION = re.compile(r"[0-9][0-9._]*")
_NETWORK_BITS = 64


@transaction.atomic
def note_sign_in(request: HttpRequest, person: Person, *, now: datetime) -> None:
    """Keep where the person signed in; tell him, and who asked, of a device that is new. Not of the very first one."""
    agent, address = request.META.get("HTTP_USER_AGENT", ""), client_address(request)
    known = KnownDevice.objects.filter(person=person)
    known.filter(seen_at__lt=now - FORGOTTEN_AFTER).delete()
    is_first = not known.exists() and not FirstSignIn.objects.filter(person=person).exists()
    _, is_new = known.update_or_create(person=person, digest=digest_of(agent, address), defaults={"seen_at": now})
    if not is_new:
        return
    oldest = known.order_by("-seen_at", "-pk").values_list("pk", flat=True)[MOST_DEVICES:]
    known.filter(pk__in=list(oldest)).delete()
    if not is_first:
        _tell(person, {"address": address, "agent": one_line(agent, longest=200)}, now=now)


def digest_of(agent: str, address: str) -> str:
    """The same for a browser's next version, and within an IPv6 network."""
    return hashlib.sha256(f"{_VERSION.sub('', agent)}\n{_network_of(address)}".encode(errors="replace")).hexdigest()


def _network_of(address: str) -> str:
    if ":" not in address:
        return address
    return str(ipaddress.ip_network((address.partition("%")[0], _NETWORK_BITS), strict=False))


def _tell(person: Person, facts: dict[str, str], *, now: datetime) -> None:
    """The person, SuperAdmins who asked, and of an administrator whoever asked in his tenants; nobody twice."""
    told = [
        publish(event="sign_in.new_device", tenant=None, subject=person, person=person, facts=facts, at=now),
    ]
    for tenant in person.administered_tenants().order_by("pk"):
        told.append(
            publish(event="sign_in.new_device", tenant=tenant, subject=person, facts=facts, at=now, besides=told)
        )
