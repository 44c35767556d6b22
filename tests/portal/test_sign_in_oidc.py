"""Single sign-on by OpenID Connect, against a small provider that speaks real HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from allauth.mfa.models import Authenticator
from allauth.socialaccount.models import SocialAccount
from django.core.cache import cache
from django.test import Client

from backupsite.single_sign_on import Provider, allauth_providers, parse_providers
from tenants.models import AuditEvent, Person
from tenants.sign_in.single_sign_on import mark_proven
from tests.factories import make_person
from tests.portal.oidc_issuer import CLIENT_ID, CLIENT_SECRET, Issuer

EMAIL = "anna@example.com"


@pytest.fixture
def issuer(settings: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Issuer]:
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    cache.clear()
    made = Issuer()
    provider = Provider(id="corp", name="Corp", issuer=made.url, client_id=CLIENT_ID, client_secret=CLIENT_SECRET)
    settings.SOCIALACCOUNT_PROVIDERS = allauth_providers((provider,))
    settings.OIDC_BELIEVES_MFA = {"corp": True}
    made.claims = {"sub": "u-1", "email": EMAIL, "email_verified": True}
    yield made
    made.close()


@pytest.fixture
def anna(db: None) -> Person:
    """Somebody who came by an invitation."""
    person = make_person("anna", superadmin=True, password="a-long-password-1")
    person.email = EMAIL
    person.save()
    mark_proven(person)
    return person


def come(issuer: Issuer, client: Client | None = None, next_page: str = "/backups/") -> Any:
    client = client or Client()
    sent = client.get("/login/oidc/corp/", {"next": next_page})
    assert sent["Location"].startswith(f"{issuer.url}/authorize?")
    return client.get("/login/oidc/corp/callback/", issuer.allow(sent["Location"]))


def is_signed_in(client: Client) -> bool:
    return "_auth_user_id" in client.session


def test_an_invited_person_comes_in_and_is_linked(issuer: Issuer, anna: Person) -> None:
    client = Client()

    answer = come(issuer, client)

    assert answer["Location"] == "/backups/"
    assert client.get("/backups/").status_code == 200
    assert SocialAccount.objects.get(user=anna).uid == "u-1"
    actions = set(AuditEvent.objects.filter(subject_id=str(anna.pk)).values_list("action", flat=True))
    assert {"sign_in.link", "sign_in.done"} <= actions


def test_the_link_holds_when_the_address_changes_there(issuer: Issuer, anna: Person) -> None:
    come(issuer)
    issuer.claims = {"sub": "u-1", "email": "new@example.com", "email_verified": True}
    client = Client()

    come(issuer, client)

    assert client.session["_auth_user_id"] == str(anna.pk)


@pytest.mark.parametrize(
    "claims",
    [
        {"sub": "u-2", "email": "stranger@example.com", "email_verified": True},
        {"sub": "u-2", "email": EMAIL, "email_verified": False},
        {"sub": "u-2", "email": EMAIL},
        {"sub": "u-2", "email": EMAIL, "email_verified": "false"},
        {"sub": "u-2", "email": "anna@example.com.evil.example", "email_verified": True},
        {"sub": "u-2"},
    ],
)
def test_nobody_else_gets_in_or_an_account(issuer: Issuer, anna: Person, claims: dict[str, Any]) -> None:
    issuer.claims = claims
    client = Client()

    answer = come(issuer, client)

    assert answer["Location"] == "/login/"
    assert not is_signed_in(client)
    assert (Person.objects.count(), SocialAccount.objects.count()) == (1, 0)
    assert "You could not be signed in" in client.get("/login/").content.decode()


def test_an_address_that_was_never_proven_here_links_nothing(issuer: Issuer, db: None) -> None:
    person = make_person("anna", superadmin=True)
    Person.objects.filter(pk=person.pk).update(email=EMAIL)
    client = Client()

    come(issuer, client)

    assert not is_signed_in(client)


def test_an_address_that_was_changed_here_is_not_proven_any_more(issuer: Issuer, anna: Person) -> None:
    Person.objects.filter(pk=anna.pk).update(email="other@example.com")
    client = Client()

    come(issuer, client)

    assert not is_signed_in(client)


def test_a_disabled_person_does_not_get_in(issuer: Issuer, anna: Person) -> None:
    come(issuer)
    Person.objects.filter(pk=anna.pk).update(is_active=False)
    client = Client()

    answer = come(issuer, client)

    assert (answer["Location"], is_signed_in(client)) == ("/login/", False)


@pytest.mark.parametrize(
    "lie",
    [
        {"audience": "another-client"},
        {"issued_by": "https://another.example"},
        {"info": {"sub": "u-9", "email": EMAIL}},
    ],
)
def test_an_answer_that_is_not_for_us_or_not_of_one_person_is_refused(
    issuer: Issuer, anna: Person, lie: dict[str, Any]
) -> None:
    for name, value in lie.items():
        setattr(issuer, name, value)
    client = Client()

    come(issuer, client)

    assert not is_signed_in(client)
    assert not SocialAccount.objects.exists()


def test_an_answer_to_another_browsers_question_is_refused(issuer: Issuer, anna: Person) -> None:
    victim, thief = Client(), Client()
    carried = issuer.allow(thief.get("/login/oidc/corp/")["Location"])

    victim.get("/login/oidc/corp/callback/", carried)

    assert not is_signed_in(victim)


def test_it_leads_nowhere_else_afterwards(issuer: Issuer, anna: Person) -> None:
    assert come(issuer, next_page="https://evil.example/")["Location"] == "/"


def test_our_factor_is_asked_for_when_the_provider_asked_for_none(issuer: Issuer, anna: Person) -> None:
    Authenticator.objects.create(user=anna, type=Authenticator.Type.TOTP, data={"secret": "x"})
    client = Client()

    answer = come(issuer, client)

    assert (answer["Location"], is_signed_in(client)) == ("/login/code/", False)


@pytest.mark.parametrize(("believed", "signed_in"), [(True, True), (False, False)])
def test_a_factor_of_the_provider_counts_when_it_is_believed(
    issuer: Issuer, anna: Person, settings: Any, believed: bool, signed_in: bool
) -> None:
    Authenticator.objects.create(user=anna, type=Authenticator.Type.TOTP, data={"secret": "x"})
    settings.OIDC_BELIEVES_MFA = {"corp": believed}
    issuer.claims["amr"] = ["pwd", "mfa"]
    client = Client()

    come(issuer, client)

    assert is_signed_in(client) is signed_in


def test_what_userinfo_says_about_factors_is_not_signed_and_does_not_count(issuer: Issuer, anna: Person) -> None:
    Authenticator.objects.create(user=anna, type=Authenticator.Type.TOTP, data={"secret": "x"})
    issuer.info = {**issuer.claims, "amr": ["mfa"]}
    client = Client()

    come(issuer, client)

    assert not is_signed_in(client)


def test_an_administrator_with_the_providers_factor_needs_no_other(issuer: Issuer, anna: Person) -> None:
    issuer.claims["amr"] = ["mfa"]
    client = Client()

    come(issuer, client)

    assert client.session["guard"]["factor_until"] is None


def test_accounts_are_not_linked_by_hand(issuer: Issuer, anna: Person) -> None:
    client = Client()
    client.force_login(anna)
    issuer.claims["sub"] = "u-7"
    sent = client.get("/login/oidc/corp/", {"process": "connect"})

    client.get("/login/oidc/corp/callback/", issuer.allow(sent["Location"]))

    assert not SocialAccount.objects.exists()


def test_a_provider_that_is_away_is_said_and_nothing_breaks(issuer: Issuer, anna: Person) -> None:
    client = Client()
    sent = client.get("/login/oidc/corp/")
    carried = issuer.allow(sent["Location"])
    issuer.close()

    answer = client.get("/login/oidc/corp/callback/", carried)

    assert answer["Location"] == "/login/"
    assert "does not answer" in client.get("/login/").content.decode()
    assert not is_signed_in(client)


def test_without_providers_there_are_none(db: None) -> None:
    assert "Sign in with Corp" not in Client().get("/login/").content.decode()
    assert Client().get("/login/oidc/corp/").status_code == 404


def test_the_page_names_them(issuer: Issuer, db: None) -> None:
    assert "Sign in with Corp" in Client().get("/login/").content.decode()


GOOD = '{"id": "corp", "name": "C", "issuer": "https://id.example.com/", "client_id": "b", "client_secret": "geheim"}'


def test_the_setting_is_read(tmp_path: Any) -> None:
    (tmp_path / "secret").write_text("from-a-file\n")
    by_file = GOOD.replace(
        '"client_secret": "geheim"', f'"client_secret_file": "{tmp_path}/secret", "believe_mfa": false'
    )

    one, other = parse_providers(f"[{GOOD}]")[0], parse_providers(f"[{by_file}]")[0]

    assert (one.issuer, one.client_secret, one.believe_mfa) == ("https://id.example.com", "geheim", True)
    assert (other.client_secret, other.believe_mfa) == ("from-a-file", False)
    assert "geheim" not in repr(one)
    assert parse_providers("") == ()


@pytest.mark.parametrize(
    "text",
    [
        "no json",
        "{}",
        "[1]",
        f"[{GOOD},{GOOD}]",
        f"[{GOOD}]".replace("https:", "http:"),
        f"[{GOOD}]".replace('"id": "corp"', '"id": "../x"'),
        f"[{GOOD}]".replace('"geheim"', "7"),
        f"[{GOOD}]".replace('"client_id"', '"client"'),
        f"[{GOOD}]".replace('"client_secret": "geheim"', '"client_secret_file": "/does/not/exist"'),
    ],
)
def test_a_wrong_setting_is_refused_without_its_secret(text: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse_providers(text)

    assert "geheim" not in str(caught.value)
