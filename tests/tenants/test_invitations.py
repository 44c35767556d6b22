"""Invitations: a link that works once, for whom it was meant, as long as the inviter may."""

from __future__ import annotations

import re
from datetime import timedelta

import pytest
from django.core import mail
from django.test import Client
from django.utils import timezone

from agents.invitations import LINK_LIFETIME, accept_invitation, invite, open_invitation, withdraw_invitation
from agents.models import Server
from agents.people import set_active
from common.errors import ConflictError, InvalidInputError, NotAllowedError, NotFoundError, TenantSuspendedError
from tenants.models import AuditEvent, Invitation, Person, Tenant
from tests.factories import make_person, make_server, make_tenant
from tests.worlds import World

pytestmark = pytest.mark.django_db
NOW = timezone.now()
PASSWORD = "a long enough pass phrase"


def _invite(
    tenant: Tenant, actor: Person, *, email: str = "New@Example.org", servers: list[Server] | None = None
) -> str:
    _, token = invite(email=email, tenant=tenant, administers=not servers, servers=servers or [], actor=actor, now=NOW)
    return token


def test_accepting_makes_the_account_and_gives_the_roles() -> None:
    tenant = make_tenant()
    server = make_server(tenant)

    token = _invite(tenant, make_person(administers=[tenant]), servers=[server])
    assert not Person.objects.filter(email="new@example.org").exists()
    person = accept_invitation(token, now=NOW, password=PASSWORD)

    assert (person.username, person.check_password(PASSWORD)) == ("new@example.org", True)
    assert list(Server.objects.for_user(person)) == [server]
    assert not person.administered_tenants().exists()


def test_the_link_works_once_and_only_its_hash_is_kept() -> None:
    tenant = make_tenant()
    token = _invite(tenant, make_person(administers=[tenant]))
    accept_invitation(token, now=NOW, password=PASSWORD)

    with pytest.raises(NotFoundError):
        accept_invitation(token, now=NOW, password=PASSWORD)

    kept = str(list(Invitation.objects.values())) + str(list(AuditEvent.objects.values()))
    assert token not in kept


@pytest.mark.parametrize(
    ("after", "works"), [(LINK_LIFETIME - timedelta(seconds=1), True), (LINK_LIFETIME, False)], ids=["before", "at"]
)
def test_it_ends(after: timedelta, works: bool) -> None:
    tenant = make_tenant()
    token = _invite(tenant, make_person(administers=[tenant]))

    if works:
        assert open_invitation(token, now=NOW + after)
    else:
        with pytest.raises(NotFoundError):
            accept_invitation(token, now=NOW + after, password=PASSWORD)


def test_an_inviter_who_lost_his_right_promised_nothing() -> None:
    tenant = make_tenant()
    inviter = make_person(administers=[tenant])
    first, root = _invite(tenant, inviter), make_person(superadmin=True)
    set_active(person=inviter, active=False, actor=root)

    with pytest.raises(NotFoundError):
        accept_invitation(first, now=NOW, password=PASSWORD)
    set_active(person=inviter, active=True, actor=root)
    tenant.user_grants.all().delete()
    with pytest.raises(NotFoundError):
        accept_invitation(first, now=NOW, password=PASSWORD)

    assert not Person.objects.filter(email="new@example.org").exists()


def test_an_address_with_an_account_accepts_by_signing_in_only() -> None:
    tenant = make_tenant()
    known, stranger = make_person("known"), make_person("stranger")
    Person.objects.filter(pk=known.pk).update(email="KNOWN@example.org")
    token = _invite(tenant, make_person(administers=[tenant]), email="known@example.org")

    for signed_in in (None, stranger):
        with pytest.raises(NotAllowedError):
            accept_invitation(token, now=NOW, signed_in=signed_in, password=PASSWORD)
    assert accept_invitation(token, now=NOW, signed_in=known) == known

    assert known.administered_tenants().get() == tenant
    known.refresh_from_db()
    assert not known.has_usable_password()


def test_a_second_invitation_replaces_the_first_and_one_can_be_withdrawn() -> None:
    tenant = make_tenant()
    inviter = make_person(administers=[tenant])
    first, second = _invite(tenant, inviter), _invite(tenant, inviter)

    with pytest.raises(NotFoundError):
        open_invitation(first, now=NOW)
    invitation = open_invitation(second, now=NOW)
    withdraw_invitation(invitation=invitation, actor=inviter)
    with pytest.raises(NotFoundError):
        open_invitation(second, now=NOW)
    with pytest.raises(ConflictError):
        withdraw_invitation(invitation=invitation, actor=inviter)


def test_what_is_refused() -> None:
    tenant, foreign = make_tenant(), make_tenant()
    actor = make_person(administers=[tenant])
    values = {"email": "a@b.org", "tenant": tenant, "administers": True, "servers": [], "actor": actor, "now": NOW}

    for error, changes in (
        (NotAllowedError, {"tenant": foreign}),
        (InvalidInputError, {"email": "nobody"}),
        (InvalidInputError, {"administers": False}),
        (InvalidInputError, {"servers": [make_server(foreign)]}),
    ):
        with pytest.raises(error):
            invite(**{**values, **changes})
    Tenant.objects.filter(pk=tenant.pk).update(status="suspended")
    with pytest.raises(TenantSuspendedError):
        invite(**values)
    assert not Invitation.objects.exists()


def test_a_weak_password_leaves_the_link_as_it_was() -> None:
    tenant = make_tenant()
    token = _invite(tenant, make_person(administers=[tenant]))

    with pytest.raises(InvalidInputError):
        accept_invitation(token, now=NOW, password="short")

    assert accept_invitation(token, now=NOW, password=PASSWORD)


def test_a_server_that_left_the_tenant_is_not_given() -> None:
    tenant = make_tenant()
    server = make_server(tenant)
    token = _invite(tenant, make_person(administers=[tenant]), servers=[server])
    Server.objects.filter(pk=server.pk).update(tenant=make_tenant())

    person = accept_invitation(token, now=NOW, password=PASSWORD)

    assert not Server.objects.for_user(person).exists()


def test_the_answer_is_the_same_whether_the_address_has_an_account(world: World) -> None:
    Person.objects.filter(username="admin_b").update(email="admin_b@example.org")
    answers = []
    for email in ("admin_b@example.org", "nobody@example.org"):
        body = {"tenant": str(world.ours.tenant.pk), "email": email, "administers": True}
        answer = world.client("admin_a").post("/api/v1/invitations/", body)
        answers.append((answer.status_code, set(answer.json())))

    assert answers[0] == answers[1]
    assert "admin_b" not in {row["name"] for row in world.client("admin_a").get("/api/v1/people/").json()["results"]}


def test_joining_in_the_browser(world: World) -> None:
    inviter = Client()
    inviter.force_login(world.people["admin_a"])
    sent = inviter.post(
        "/people/invite/", {"tenant": str(world.ours.tenant.pk), "email": "new@example.org", "administers": "on"}
    )
    link = re.search(r"/join/[\w-]+/", sent.content.decode())
    assert link is not None
    client = Client()

    opened = client.get(link[0])
    weak = client.post("/join/", {"password": "short"})
    done = client.post("/join/", {"password": PASSWORD})

    assert (opened.status_code, opened["Location"]) == (302, "/join/")
    assert (weak.status_code, done.status_code, done["Location"]) == (400, 302, "/login/")
    assert client.get(link[0]).status_code == 404
    assert client.get("/join/").status_code == 404
    assert Person.objects.get(username="new@example.org").administered_tenants().get() == world.ours.tenant
    assert not mail.outbox
