"""Who may answer, asked for a page of requests at once: the same answers as one by one, in a few statements."""

from __future__ import annotations

from datetime import timedelta
from itertools import product

from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from tenants.approval_states import COOLING, ApprovalKind
from tenants.approvals import answerable_by, may_approve, which_may_approve
from tenants.audit import record
from tenants.models import ApprovalRequest, ApprovalRule
from tests.factories import make_approval_rule, make_person, make_tenant
from tests.signing_in import sign_in
from tests.worlds import World


def test_many_are_answered_as_one_by_one(db: None) -> None:
    one, two = make_tenant(), make_tenant()
    people = {
        "boss": make_person("boss", superadmin=True),
        "of one": make_person("of-one", administers=[one]),
        "of both": make_person("of-both", administers=[one, two]),
        "nobody": make_person("nobody"),
        "disabled": make_person("disabled", superadmin=True, active=False),
    }
    # The boss changed one person before each request, and another long before some.
    record(action="role.grant", subject=people["of both"], actor=people["boss"])
    requests = []
    for number, (kind, tenant, by, age) in enumerate(
        product(
            (ApprovalKind.RETENTION_SHORTEN, ApprovalKind.TENANT_DELETE),
            (one, two, None),
            (people["boss"], people["of one"], None),
            (timedelta(0), COOLING - timedelta(hours=1), -COOLING - timedelta(hours=1)),
        )
    ):
        made = ApprovalRequest.objects.create(
            tenant=tenant,
            kind=kind,
            subject_type="x",
            subject_id=str(number),
            parameters_hash="0" * 64,
            requested_by=by,
            expires_at=timezone.now() + timedelta(days=3),
        )
        ApprovalRequest.objects.filter(pk=made.pk).update(created_at=timezone.now() - age)
        requests.append(ApprovalRequest.objects.select_related("tenant", "requested_by").get(pk=made.pk))

    answers = {name: which_may_approve(requests, person) for name, person in people.items()}

    for name, person in people.items():
        assert answers[name] == {request.pk for request in requests if may_approve(request, person)}, name
        by_database = ApprovalRequest.objects.filter(answerable_by(person, now=timezone.now()))
        assert set(by_database.values_list("pk", flat=True)) == answers[name], name
    assert len(requests) > len(answers["boss"]) > len(answers["of both"]) > 0
    assert answers["nobody"] == answers["disabled"] == set()
    assert which_may_approve([], people["boss"]) == set()


def test_a_full_page_of_requests_and_rules_is_a_few_statements(world: World) -> None:
    client, asked = world.client("super"), world.ours.approval
    with CaptureQueriesContext(connection) as few:
        client.get("/approvals/")
    for number in range(60):
        ApprovalRequest.objects.filter(pk=asked.pk).update(status="declined")
        asked.pk, asked.subject_id, asked._state.adding = None, str(number), True
        asked.id = ApprovalRequest._meta.pk.get_default()
        asked.status = "pending"
        asked.save(force_insert=True)
        make_approval_rule(make_tenant(title=f"Rule {number}"), required=True)

    with CaptureQueriesContext(connection) as many:
        page = client.get("/approvals/")

    assert len(many) <= len(few) + 1
    assert page.content.decode().count("Switch off") <= 50
    assert "Page 1 of 2" in page.content.decode()
    assert ApprovalRule.objects.filter(required=True).count() >= 60


def test_what_waits_for_somebody_is_told_whatever_he_filtered_last(db: None) -> None:
    """A filter is remembered, and a request lives for three days only."""
    asked_by, boss, client = make_person("asker", superadmin=True), make_person("boss", superadmin=True), Client()
    sign_in(client, boss)
    assert "for you, whatever" not in client.get("/approvals/?state=declined&keep=1").text
    ApprovalRequest.objects.create(
        tenant=make_tenant(),
        kind=ApprovalKind.TENANT_DELETE,
        subject_type="x",
        subject_id="1",
        parameters_hash="0" * 64,
        requested_by=asked_by,
        expires_at=timezone.now() + timedelta(days=3),
    )

    remembered = client.get("/approvals/", follow=True)

    assert "state=declined" in remembered.redirect_chain[0][0]
    assert "1 request waits for you, whatever is filtered here." in " ".join(remembered.text.split())
    assert "Approve</button>" in client.get("/approvals/?state=you").text
