"""Tokens take away: scope, tenant, network, time. Whatever is wrong with one, the answer is the same."""

from __future__ import annotations

import base64
import inspect
import logging
from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone
from hypothesis import given
from hypothesis import strategies as st
from rest_framework.test import APIClient

from backups.models import Backup
from common.errors import ConflictError, InvalidInputError, NotAllowedError
from tenants import tokens
from tenants.access import get_for_user, may_create, tenants_for_new
from tenants.models import ApiToken, Person, Tenant
from tenants.querysets import ScopedQuerySet
from tenants.roles import Action
from tenants.token_limits import Limits, Scope, TokenScopeError, covers, needed_scope
from tenants.token_secrets import KeptSecret, keep, matches, new_token_text, parse_peppers, parse_token
from tenants.tokens import NewToken, checked_networks, create_token, end_token, is_within, person_of, rotate_token
from tests.factories import a_moment, make_person, make_server, make_tenant, make_token
from tests.worlds import World

NOW = a_moment()
PEPPERS = {"2": b"b" * 32, "1": b"a" * 32}


def person_behind(text: str, *, address: str = "192.0.2.7", now: Any = NOW) -> Person | None:
    found = person_of(text, address=address, now=now)
    return found[0] if found else None


# --- secrets ----------------------------------------------------------------------------------------------------------


def test_a_token_is_taken_apart_and_put_together() -> None:
    text = new_token_text()

    assert parse_token(text.reveal()) == text
    assert text.reveal().startswith("bks_")
    assert text.secret not in repr(text)
    assert len(base64.urlsafe_b64decode(text.secret + "=")) == 32


@given(st.text(max_size=250))
def test_any_other_text_is_no_token(text: str) -> None:
    assert parse_token(text) is None
    assert parse_token(f"bks_{text}") is None or "." in text


def test_only_the_right_secret_of_the_right_row_matches() -> None:
    first, second = new_token_text(), new_token_text()
    kept = keep(first, PEPPERS)

    assert matches(first, kept, PEPPERS)
    assert not matches(second, kept, PEPPERS)
    assert not matches(type(first)(key=second.key, secret=first.secret), kept, PEPPERS)
    assert not matches(first, KeptSecret(pepper_id="1", mac=kept.mac), PEPPERS)


def test_without_the_pepper_nothing_matches() -> None:
    text = new_token_text()

    assert not matches(text, keep(text, PEPPERS), {"3": b"c" * 32})
    # What a pepper of zeros gives: somebody could write that into a row.
    zeros = keep(text, {"9": bytes(32)})
    assert not matches(text, zeros, PEPPERS)


def test_secrets_are_compared_in_constant_time() -> None:
    assert "compare_digest" in inspect.getsource(matches)


@pytest.mark.parametrize(
    "text", ["", "1", "1:", "1:c2hvcnQ=", "A:" + "QUFB" * 12, "1:" + "QUFB" * 12 + ",1:" + "QUFB" * 12]
)
def test_wrong_peppers_are_refused_without_being_told(text: str) -> None:
    with pytest.raises(ValueError, match="must be") as refused:
        parse_peppers(text)
    assert "QUFB" not in str(refused.value)


def test_the_first_pepper_makes_new_hashes() -> None:
    peppers = parse_peppers("new:" + "QUFB" * 12 + ", old:" + "QkJC" * 12)

    assert keep(new_token_text(), peppers).pepper_id == "new"


# --- whose it is ------------------------------------------------------------------------------------------------------


def test_a_token_leads_to_its_person(db: None) -> None:
    person = make_person()

    assert person_behind(make_token(person, now=NOW)) == person


def test_the_database_holds_nothing_that_signs_in(db: None) -> None:
    text = make_token(make_person(), now=NOW)

    row = ApiToken.objects.values().get()
    assert not [value for value in row.values() if str(value) and text.split(".")[1] in str(value)]
    assert person_behind(f"bks_{row['key']}.{row['secret_mac']}") is None


@pytest.mark.case("AZ-08")
@pytest.mark.parametrize(("seconds", "is_good"), [(-1, True), (0, False), (1, False)])
def test_it_ends_to_the_second(db: None, seconds: int, is_good: bool) -> None:
    text = make_token(make_person(), now=NOW, days=1)

    assert (person_behind(text, now=NOW + timedelta(days=1, seconds=seconds)) is not None) is is_good


def test_without_a_wish_it_lives_ninety_days(db: None) -> None:
    make_token(make_person(), now=NOW)

    assert ApiToken.objects.get().expires_at == NOW + timedelta(days=90)


@pytest.mark.case("AZ-08")
def test_whatever_is_wrong_with_it_nobody_is_told(db: None, settings: Any) -> None:
    person = make_person()
    good = make_token(person, now=NOW)
    other = make_token(make_person(), now=NOW)
    mixed = f"{good.partition('.')[0]}.{other.partition('.')[2]}"
    ended = make_token(person, now=NOW)
    end_token(token=ApiToken.objects.get(key=parse_token(ended).key), actor=person, now=NOW)
    disabled = make_token(make_person(active=False), now=NOW)
    answers = []

    for text in (
        mixed,
        good[:-1],
        good + "A",
        "bks_x." + "A" * 43,
        ended,
        disabled,
        good.upper(),
        "",
        "bks_",
        good[4:],
    ):
        assert person_behind(text) is None, text
        answers.append(APIClient(HTTP_AUTHORIZATION=f"Bearer {text or 'x'}").get("/api/v1/me/").json())

    assert person_behind(good) == person
    assert all(answer == answers[0] for answer in answers)


@pytest.mark.case("AZ-08")
def test_an_unknown_token_costs_as_much_as_a_wrong_one(db: None, monkeypatch: Any) -> None:
    looked: list[str] = []
    monkeypatch.setattr(tokens, "matches", lambda text, kept, peppers: bool(looked.append(text.key)))

    assert person_behind("bks_unknown." + "A" * 43) is None
    assert looked == ["unknown"]


def test_a_pepper_is_replaced_while_tokens_are_used(db: None, settings: Any) -> None:
    person = make_person()
    text = make_token(person, now=NOW)
    config = settings.CONFIG.model_copy()
    former = config.token_peppers.get_secret_value()

    object.__setattr__(config, "token_peppers", type(config.token_peppers)("2:" + "QUFB" * 12 + "," + former))
    settings.CONFIG = config
    assert person_behind(text) == person
    assert ApiToken.objects.get().pepper_id == "2"
    object.__setattr__(config, "token_peppers", type(config.token_peppers)("2:" + "QUFB" * 12))
    assert person_behind(text) == person


def test_a_token_under_a_lost_pepper_is_worth_nothing(db: None, settings: Any) -> None:
    text = make_token(make_person(), now=NOW)
    config = settings.CONFIG.model_copy()

    object.__setattr__(config, "token_peppers", type(config.token_peppers)("2:" + "QUFB" * 12))
    settings.CONFIG = config

    assert person_behind(text) is None


# --- from where, when -------------------------------------------------------------------------------------------------


@pytest.mark.case("AZ-20")
@pytest.mark.parametrize(
    ("address", "fits"),
    [
        ("192.0.2.1", True),
        ("192.0.3.1", False),
        ("2001:db8::1", True),
        ("2001:db9::1", False),
        ("::ffff:192.0.2.1", True),
        ("::ffff:192.0.3.1", False),
        ("", False),
        ("unknown", False),
    ],
)
def test_the_network_it_comes_from(db: None, address: str, fits: bool) -> None:
    text = make_token(make_person(), now=NOW, networks=["192.0.2.0/24", "2001:db8::/32"])

    assert (person_behind(text, address=address) is not None) is fits
    assert is_within(address, ["0.0.0.0/0", "::/0"]) is (address not in {"", "unknown"})


def test_a_header_does_not_choose_the_network(db: None, settings: Any) -> None:
    text = make_token(make_person(), networks=["192.0.2.0/24"])
    client = APIClient(HTTP_AUTHORIZATION=f"Bearer {text}")
    claimed = {"HTTP_X_FORWARDED_FOR": "192.0.2.9", "HTTP_X_REAL_IP": "192.0.2.9", "HTTP_FORWARDED": "for=192.0.2.9"}

    assert client.get("/api/v1/me/", **claimed).status_code == 401
    assert client.get("/api/v1/me/", REMOTE_ADDR="192.0.2.9").status_code == 200
    config = settings.CONFIG.model_copy(update={"trusted_proxy_count": 1})
    settings.CONFIG = config
    assert client.get("/api/v1/me/", HTTP_X_FORWARDED_FOR="192.0.2.9, 10.0.0.1").status_code == 401
    assert client.get("/api/v1/me/", HTTP_X_FORWARDED_FOR="10.0.0.1, 192.0.2.9").status_code == 200


@pytest.mark.parametrize("wrong", ["x", "192.0.2.1/24", "192.0.2.0/33", "", "fe80::1%eth0", "0x7f.1"])
def test_what_is_no_network(wrong: str) -> None:
    with pytest.raises(InvalidInputError):
        checked_networks([wrong])


def test_its_use_is_noted_once_a_minute(db: None) -> None:
    text = make_token(make_person(), now=NOW)
    noted = []

    for seconds, address in ((0, "192.0.2.1"), (30, "192.0.2.2"), (61, "192.0.2.3")):
        person_behind(text, address=address, now=NOW + timedelta(seconds=seconds))
        row = ApiToken.objects.get()
        noted.append((int((row.last_used_at - NOW).total_seconds()), row.last_used_address))

    assert noted == [(0, "192.0.2.1"), (0, "192.0.2.1"), (61, "192.0.2.3")]


def test_a_request_within_the_minute_writes_nothing(db: None, django_assert_num_queries: Any) -> None:
    text = make_token(make_person(), now=NOW)
    person_behind(text)

    with django_assert_num_queries(1):
        person_behind(text)


# --- live rights ------------------------------------------------------------------------------------------------------


@pytest.mark.case("AZ-06")
def test_who_is_disabled_or_loses_a_role_has_lost_it_with_the_next_request(world: World) -> None:
    person = world.people["admin_a"]
    assert person is not None
    client = APIClient(HTTP_AUTHORIZATION=f"Bearer {make_token(person)}")
    address = f"/api/v1/backups/{world.ours.backup.pk}/"
    assert client.get(address).status_code == 200

    world.ours.tenant.user_grants.filter(user=person).delete()
    assert client.get(address).status_code == 404

    Person.objects.filter(pk=person.pk).update(is_active=False)
    assert client.get(address).status_code == 401


# --- limits -----------------------------------------------------------------------------------------------------------


@pytest.mark.case("AZ-20")
@given(st.sampled_from(Action), st.sampled_from(Scope), st.booleans())
def test_more_scope_never_allows_less(action: Action, scope: Scope, may_restore: bool) -> None:
    limits = Limits(scope=scope, may_restore=may_restore, tenant_id=None, of_superadmin=False)

    assert covers(scope, needed_scope(action)) or not limits.allows(action)
    assert Limits(Scope.ADMIN, True, None, False).allows(action)
    assert limits.allows(Action.VIEW)
    assert may_restore or not limits.allows(Action.RESTORE)


def test_a_token_for_reading_sends_no_changes_at_all() -> None:
    limits = Limits(scope=Scope.READ, may_restore=False, tenant_id=None, of_superadmin=True)

    limits.refuse(Action.VIEW, method="GET")
    with pytest.raises(TokenScopeError):
        limits.refuse(Action.VIEW, method="POST")


def held(scope: Scope, *, may_restore: bool = False, tenant: Tenant | None = None, person: Person) -> Person:
    """The person as a token of his makes him."""
    text = make_token(person, scope=scope, may_restore=may_restore, tenant=tenant)
    found = person_of(text, address="192.0.2.1", now=timezone.now())
    assert found is not None
    return found[0]


def scoped_models() -> list[Any]:
    from django.apps import apps

    return [model for model in apps.get_models() if isinstance(model._default_manager.all(), ScopedQuerySet)]


def test_no_scope_reaches_further_than_its_person(world: World) -> None:
    for name in ("super", "admin_a", "owner_a1"):
        person = world.people[name]
        assert person is not None
        for scope in Scope:
            smaller = held(scope, person=Person.objects.get(pk=person.pk))
            for model in scoped_models():
                for action in Action:
                    rows = set(model._default_manager.for_user(smaller, action).values_list("pk", flat=True))
                    whole = set(model._default_manager.for_user(person, action).values_list("pk", flat=True))
                    assert rows <= whole
                    assert not rows or (covers(scope, needed_scope(action)) and action is not Action.RESTORE)


@pytest.mark.case("AZ-08")
@pytest.mark.parametrize("name", ["super", "admin_a"])
def test_bound_to_a_tenant_it_reaches_nothing_of_another(world: World, name: str) -> None:
    person = world.people[name]
    assert person is not None
    if name == "admin_a":
        world.theirs.tenant.user_grants.filter(user__username="admin_b").update(user=person)
    bound = held(Scope.ADMIN, may_restore=True, tenant=world.ours.tenant, person=Person.objects.get(pk=person.pk))

    for resource in ("tenants", "servers", "backups", "definitions", "vaults", "jobs", "alarms", "webhooks", "agents"):
        model = type(world.ours.object_of(resource))
        seen = set(model._default_manager.for_user(bound).values_list("pk", flat=True))
        assert world.ours.object_of(resource).pk in seen, resource
        assert world.theirs.object_of(resource).pk not in seen, resource
    assert set(bound.administered_tenants()) == {world.ours.tenant}
    assert set(tenants_for_new(bound, Backup)) <= {world.ours.tenant}


def test_every_model_of_a_bound_super_admin_stays_within_the_tenant(world: World) -> None:
    person = world.people["super"]
    assert person is not None
    bound = held(Scope.ADMIN, may_restore=True, tenant=world.ours.tenant, person=Person.objects.get(pk=person.pk))
    foreign = make_tenant("Foreign")
    make_server(foreign)

    for model in scoped_models():
        manager = model._default_manager
        if manager.all().tenant_path is None:
            continue
        for action in Action:
            rows = manager.for_user(bound, action)
            assert not rows.exclude(**{manager.all().tenant_path: world.ours.tenant.pk}).exists(), (model, action)
    assert not bound.is_superuser


def test_an_owners_token_bound_elsewhere_reaches_no_server(world: World) -> None:
    person = world.people["owner_a1"]
    assert person is not None

    bound = held(Scope.READ, tenant=world.theirs.tenant, person=Person.objects.get(pk=person.pk))

    assert not Backup.objects.for_user(bound).exists()


def test_what_the_scope_does_not_have_is_refused_and_not_hidden(world: World) -> None:
    person = world.people["admin_a"]
    assert person is not None
    smaller = held(Scope.READ, person=Person.objects.get(pk=person.pk))

    with pytest.raises(NotAllowedError):
        get_for_user(Backup.objects.all(), person=smaller, action=Action.DELETE, pk=world.ours.backup.pk)
    assert not may_create(smaller, Backup)


def test_a_narrowed_person_is_not_stored(db: None) -> None:
    tenant = make_tenant()
    bound = held(Scope.ADMIN, tenant=tenant, person=make_person(superadmin=True))

    with pytest.raises(RuntimeError):
        bound.save()
    assert Person.objects.get(pk=bound.pk).is_superuser


# --- making them ------------------------------------------------------------------------------------------------------


def by_token(person: Person, **wanted: Any) -> ApiToken:
    token, _ = create_token(person=person, wanted=NewToken(label="by", **wanted), now=NOW)
    return token


@pytest.mark.parametrize(
    ("held_by", "wanted"),
    [
        ({"scope": Scope.OPERATE}, {"scope": Scope.ADMIN}),
        ({"scope": Scope.ADMIN}, {"scope": Scope.ADMIN, "may_restore": True}),
        ({"scope": Scope.ADMIN, "days": 5}, {"scope": Scope.READ, "days": 6}),
        ({"scope": Scope.ADMIN, "networks": ["192.0.2.0/24"]}, {"scope": Scope.READ}),
        ({"scope": Scope.ADMIN, "networks": ["192.0.2.0/24"]}, {"scope": Scope.READ, "networks": ["192.0.2.0/23"]}),
        ({"scope": Scope.ADMIN, "networks": ["192.0.2.0/24"]}, {"scope": Scope.READ, "networks": ["2001:db8::/32"]}),
    ],
)
def test_a_token_makes_none_that_reaches_further(db: None, held_by: dict[str, Any], wanted: dict[str, Any]) -> None:
    person = make_person()
    by = by_token(person, **held_by)

    with pytest.raises(NotAllowedError):
        create_token(person=person, wanted=NewToken(label="more", **wanted), now=NOW, by=by)
    assert ApiToken.objects.count() == 1


def test_a_bound_token_makes_only_bound_ones(db: None) -> None:
    person, ours, theirs = make_person(superadmin=True), make_tenant(), make_tenant()
    by = by_token(person, scope=Scope.ADMIN, tenant=ours)

    for tenant in (None, theirs):
        with pytest.raises(NotAllowedError):
            create_token(person=person, wanted=NewToken(label="x", tenant=tenant), now=NOW, by=by)
    narrow = {"tenant": ours, "days": 2, "networks": ["192.0.2.0/25"]}
    assert create_token(person=person, wanted=NewToken(label="x", **narrow), now=NOW, by=by)


def test_a_token_does_not_prolong_itself(db: None) -> None:
    person = make_person()
    by = by_token(person, scope=Scope.ADMIN, days=3)

    with pytest.raises(NotAllowedError):
        rotate_token(token=by, actor=person, now=NOW, days=30, by=by)


def test_another_secret_ends_the_former_one(db: None) -> None:
    person = make_person()
    former = make_token(person, now=NOW)

    text = rotate_token(token=ApiToken.objects.get(), actor=person, now=NOW)

    assert person_behind(former) is None
    assert person_behind(text) == person


def test_only_its_own_person_gets_another_secret(db: None) -> None:
    token = by_token(make_person())

    with pytest.raises(NotAllowedError):
        rotate_token(token=token, actor=make_person(superadmin=True), now=NOW)
    with pytest.raises(NotAllowedError):
        end_token(token=token, actor=make_person(), now=NOW)


def test_an_ended_token_stays_ended(db: None) -> None:
    person = make_person()
    token = by_token(person)
    end_token(token=token, actor=person, now=NOW)
    end_token(token=token, actor=person, now=NOW + timedelta(hours=1))

    with pytest.raises(ConflictError):
        rotate_token(token=token, actor=person, now=NOW)
    assert ApiToken.objects.get().disabled_at == NOW


@pytest.mark.parametrize("days", [0, -1, 366])
def test_how_long_one_may_live(db: None, days: int) -> None:
    with pytest.raises(InvalidInputError):
        by_token(make_person(), days=days)


def test_one_person_has_so_many(db: None, monkeypatch: Any) -> None:
    monkeypatch.setattr(tokens, "MOST_TOKENS", 2)
    person = make_person()
    first = by_token(person)
    by_token(person)
    with pytest.raises(ConflictError):
        by_token(person)

    end_token(token=first, actor=person, now=NOW)

    assert by_token(person)


def test_a_token_says_nothing_of_its_secret(db: None, caplog: Any) -> None:
    token, text = create_token(person=make_person(), wanted=NewToken(label="ci"), now=NOW)
    logging.getLogger("tests").warning("%r %s %r", token, token, NewToken(label="ci"))

    assert text.partition(".")[2] not in caplog.text + repr(token) + str(token)
