"""Verbs over tokens: make, give another secret, end; and who is behind one that was shown.

A token only takes away from its person's rights. One that was made by means of another token takes away at least as
much as that one, so nobody gets further by making tokens.
"""

from __future__ import annotations

import ipaddress
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.db import DatabaseError, transaction
from django.db.models import Q

from common.errors import ConflictError, InvalidInputError, NotAllowedError
from tenants.audit import record
from tenants.models import ApiToken, Person, Tenant
from tenants.notices import publish
from tenants.origin import current_origin
from tenants.token_limits import Scope, covers
from tenants.token_secrets import KeptSecret, TokenText, is_current, keep, matches, new_token_text, parse_token

logger = logging.getLogger(__name__)

DEFAULT_DAYS = 90
MOST_TOKENS = 50
MOST_NETWORKS = 20
USE_NOTED_EVERY = timedelta(minutes=1)
_NO_ROW = KeptSecret(pepper_id="", mac="0" * 64)


@dataclass(frozen=True, slots=True)
class NewToken:
    """What is asked for. `networks` as text, such as `192.0.2.0/24`; `days` None means the usual."""

    label: str
    scope: Scope = Scope.READ
    may_restore: bool = False
    tenant: Tenant | None = None
    networks: Sequence[str] = field(default_factory=tuple)
    days: int | None = None


@transaction.atomic
def create_token(
    *, person: Person, wanted: NewToken, now: datetime, by: ApiToken | None = None
) -> tuple[ApiToken, str]:
    """Make a token of the person's own; returns it with its text, which is shown this once.

    `by` is the token with which the person came, if he did. Raises InvalidInputError, NotAllowedError when it would
    reach further than `by`, ConflictError when there are too many.
    """
    # Two at once do not pass the limit together.
    Person.objects.select_for_update(of=("self",)).get(pk=person.pk)
    if ApiToken.objects.filter(person_id=person.pk, kind=ApiToken.Kind.KEY).live(now).count() >= MOST_TOKENS:
        raise ConflictError(f"You have {MOST_TOKENS} tokens. End some of them first.", code="too_many_tokens")
    text = new_token_text()
    token = ApiToken(
        person_id=person.pk,
        label=wanted.label.strip(),
        scope=wanted.scope,
        may_restore=wanted.may_restore,
        tenant=wanted.tenant,
        networks=checked_networks(wanted.networks),
        expires_at=now + timedelta(days=_checked_days(wanted.days)),
        **_kept(text),
    )
    if not token.label or len(token.label) > 100:
        raise InvalidInputError("Give it a label of 1 to 100 characters.", field="label")
    _refuse_wider(token, by)
    token.save(force_insert=True)
    facts = {"label": token.label, "address": current_origin().address}
    publish(event="token.created", tenant=None, subject=token, facts=facts, person=person)
    record(action="token.create", subject=token, actor=person, after=_told(token))
    return token, text.reveal()


@transaction.atomic
def create_login_token(*, person: Person, lifetime_seconds: int, now: datetime) -> str:
    """The one token of the person that came of a password; the one before it ends. Returns its text."""
    text = new_token_text()
    # In this order two sign-ins at once leave one token.
    Person.objects.select_for_update(of=("self",)).get(pk=person.pk)
    ApiToken.objects.filter(person_id=person.pk, kind=ApiToken.Kind.LOGIN).delete()
    ApiToken.objects.create(
        person_id=person.pk,
        kind=ApiToken.Kind.LOGIN,
        label="sign-in by password",
        scope=Scope.ADMIN,
        may_restore=True,
        expires_at=now + timedelta(seconds=lifetime_seconds),
        **_kept(text),
    )
    record(action="sign_in.done", subject=person, actor=person, after={"by": "api"})
    return text.reveal()


@transaction.atomic
def rotate_token(
    *, token: ApiToken, actor: Person, now: datetime, days: int | None = None, by: ApiToken | None = None
) -> str:
    """Another secret and another end for the same token; the former secret is worth nothing at once.

    Only one's own. Raises NotAllowedError, ConflictError for one that was ended or came of a password.
    """
    if token.person_id != actor.pk:
        raise NotAllowedError("Only its own person gives a token another secret; end it instead.")
    row = ApiToken.objects.select_for_update(of=("self",)).get(pk=token.pk)
    if row.disabled_at is not None or row.kind != ApiToken.Kind.KEY:
        raise ConflictError("This token has ended. Make another one.", code="token_ended")
    text, before = new_token_text(), _told(row)
    row.expires_at = now + timedelta(days=_checked_days(days))
    for name, value in _kept(text).items():
        setattr(row, name, value)
    _refuse_wider(row, by)
    row.save(update_fields=["key", "secret_mac", "pepper_id", "expires_at", "changed_at"])
    record(action="token.rotate", subject=row, actor=actor, before=before, after=_told(row))
    return text.reveal()


@transaction.atomic
def end_token(*, token: ApiToken, actor: Person, now: datetime) -> None:
    """It is worth nothing with the next request. May be called twice. Its own person, or a SuperAdmin."""
    if token.person_id != actor.pk and not actor.is_superuser:
        raise NotAllowedError("Only its own person or a SuperAdmin ends a token.")
    if ApiToken.objects.filter(pk=token.pk, disabled_at=None).update(disabled_at=now, changed_at=now):
        record(action="token.revoke", subject=token, actor=actor, before=_told(token))


def _refuse_wider(token: ApiToken, by: ApiToken | None) -> None:
    if by is None:
        return
    if not covers(Scope(by.scope), Scope(token.scope)) or (token.may_restore and not by.may_restore):
        raise NotAllowedError("A token makes none with more scope than its own.", code="token_scope")
    if by.tenant_id is not None and token.tenant_id != by.tenant_id:
        raise NotAllowedError("A token of one tenant makes only tokens of that tenant.", code="token_scope")
    if token.expires_at > by.expires_at:
        raise NotAllowedError("A token makes none that lives longer than itself.", code="token_scope")
    if by.networks and not _within(token.networks, by.networks):
        raise NotAllowedError("A token makes none for networks from which it may not come itself.", code="token_scope")


def _within(inner: Sequence[str], outer: Sequence[str]) -> bool:
    around = [ipaddress.ip_network(text) for text in outer]
    asked = [ipaddress.ip_network(text) for text in inner]
    return bool(asked) and all(any(_is_part(one, network) for network in around) for one in asked)


def _is_part(one: Any, network: Any) -> bool:
    return bool(one.version == network.version and one.subnet_of(network))


def checked_networks(texts: Sequence[str]) -> list[str]:
    """In their plain form, without repetitions. Raises InvalidInputError naming the wrong one."""
    if len(texts) > MOST_NETWORKS:
        raise InvalidInputError(f"At most {MOST_NETWORKS} networks.", field="networks")
    found = []
    for text in texts:
        try:
            # An interface of this machine says nothing about where a caller is.
            if "%" in text:
                raise ValueError
            found.append(str(ipaddress.ip_network(text.strip())))
        except ValueError:
            message = f"{text.strip()[:50]} is no network; use a form such as 192.0.2.0/24."
            raise InvalidInputError(message, field="networks") from None
    return list(dict.fromkeys(found))


def _checked_days(days: int | None) -> int:
    most: int = settings.CONFIG.token_max_days
    if days is None:
        return min(DEFAULT_DAYS, most)
    if not 1 <= days <= most:
        raise InvalidInputError(f"A token lives 1 to {most} days.", field="days")
    return days


def _kept(text: TokenText) -> dict[str, str]:
    kept = keep(text, settings.CONFIG.token_pepper_keys)
    return {"key": text.key, "secret_mac": kept.mac, "pepper_id": kept.pepper_id}


def _told(token: ApiToken) -> dict[str, Any]:
    names = ("label", "scope", "may_restore", "tenant_id", "networks", "expires_at")
    return {name: getattr(token, name) for name in names}


# --- who is behind a token --------------------------------------------------------------------------------------------


def person_of(secret: str, *, address: str, now: datetime) -> tuple[Person, ApiToken] | None:
    """The person, narrowed by the token, and the token. None for whatever is not good, without saying why.

    `address` is the caller's; empty when unknown, which fits no list of networks.
    """
    text = parse_token(secret)
    if text is None:
        return None
    token = ApiToken.objects.select_related("person").filter(key=text.key).first()
    kept = KeptSecret(pepper_id=token.pepper_id, mac=token.secret_mac) if token else _NO_ROW
    is_right = matches(text, kept, settings.CONFIG.token_pepper_keys)
    if token is None or not is_right or not token.is_live(now) or not token.person.is_active:
        return None
    if token.networks and not is_within(address, token.networks):
        return None
    _note_use(token, text, kept, address=address, now=now)
    token.person.narrow(token.limits())
    return token.person, token


def is_within(address: str, networks: Sequence[str]) -> bool:
    """Whether the address is in one of the networks. An IPv4 address in IPv6 clothes counts as what it is."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return False
    mapped = getattr(found, "ipv4_mapped", None)
    return any((mapped or found) in ipaddress.ip_network(network) for network in networks)


def _note_use(token: ApiToken, text: TokenText, kept: KeptSecret, *, address: str, now: datetime) -> None:
    """When and from where, at most once a minute; and a hash under the pepper in use. Trouble is for the log."""
    changes: dict[str, Any] = {}
    before = now - USE_NOTED_EVERY
    if token.last_used_at is None or token.last_used_at <= before:
        changes = {"last_used_at": now, "last_used_address": address}
    peppers = settings.CONFIG.token_pepper_keys
    if not is_current(kept, peppers):
        renewed = keep(text, peppers)
        changes |= {"secret_mac": renewed.mac, "pepper_id": renewed.pepper_id}
    if not changes:
        return
    mine = ApiToken.objects.filter(pk=token.pk, key=token.key, disabled_at=None)
    if "secret_mac" not in changes:
        mine = mine.filter(Q(last_used_at=None) | Q(last_used_at__lte=before))
    try:
        with transaction.atomic():
            mine.update(**changes)
    except DatabaseError:
        logger.warning("the use of a token was not noted", extra={"of": str(token.pk)}, exc_info=True)
