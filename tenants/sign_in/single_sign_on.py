"""Who a person is that comes from an OpenID Connect provider, and what its claims are worth."""

from __future__ import annotations

from typing import Any

from allauth.account.models import EmailAddress
from allauth.socialaccount.models import SocialLogin
from django.conf import settings
from django.db import transaction

from tenants.audit import record
from tenants.models import Person

NO_ACCOUNT = "You could not be signed in. Ask an administrator whether you have an account here."


def is_consistent(sociallogin: SocialLogin) -> bool:
    """Both answers of the provider must be about one person (OpenID Connect Core 5.3.2)."""
    token, info = _claims(sociallogin, "id_token"), _claims(sociallogin, "userinfo")
    return bool(token.get("sub")) and (not info or info.get("sub") == token["sub"])


def person_of(sociallogin: SocialLogin) -> Person | None:
    """The one active person whose address was proven here, by an invitation, and there, by the provider."""
    email = _proven_email(sociallogin)
    if not email:
        return None
    found = list(Person.objects.filter(email__iexact=email, is_active=True)[:2])
    if len(found) != 1:
        return None
    is_proven_here = EmailAddress.objects.filter(user=found[0], email__iexact=email, verified=True).exists()
    return found[0] if is_proven_here else None


def _proven_email(sociallogin: SocialLogin) -> str:
    """Only what the provider says is verified, as a boolean: some write the text "false"."""
    for claims in (_claims(sociallogin, "id_token"), _claims(sociallogin, "userinfo")):
        email = claims.get("email")
        if isinstance(email, str) and email and claims.get("email_verified") is True:
            return email
    return ""


def brought_factor(sociallogin: SocialLogin) -> bool:
    """Whether the provider asked for a second factor and is believed in that: `amr` of the ID token contains `mfa`."""
    methods = _claims(sociallogin, "id_token").get("amr")
    is_believed = settings.OIDC_BELIEVES_MFA.get(sociallogin.account.provider, False)
    return is_believed and isinstance(methods, list) and "mfa" in methods


def _claims(sociallogin: SocialLogin, name: str) -> dict[str, Any]:
    found = (sociallogin.account.extra_data or {}).get(name)
    return found if isinstance(found, dict) else {}


@transaction.atomic
def mark_proven(person: Person) -> None:
    """The address is his: a link that was sent there came back. Another one is not proven any more."""
    EmailAddress.objects.filter(user=person).delete()
    if not person.email:
        return
    EmailAddress.objects.filter(email__iexact=person.email, verified=True).delete()
    EmailAddress.objects.create(user=person, email=person.email.lower(), verified=True, primary=True)


def note_link(person: Person, *, provider: str) -> None:
    record(action="sign_in.link", subject=person, actor=person, after={"provider": provider})
