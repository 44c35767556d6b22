"""The lists of keys, policies and approvals: what their filters find, and what may be done in their rows."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest

from definitions.models import Policy
from tenants.approval_states import ApprovalKind
from tenants.audit import record
from tenants.models import ApprovalRequest
from tests.factories import (
    make_approval_request,
    make_tenant,
    make_tenant_key,
)
from tests.portal.listed import NOON, read
from tests.worlds import World


def _found(world: World, address: str, name: str = "super") -> set[Any]:
    joined = "&" if "?" in address else "?"
    return {row.pk for row in world.client(name).get(f"{address}{joined}rows=25").context["listed"].rows}


@pytest.mark.usefixtures("unrendered")
def test_keys_are_found_by_what_is_to_do(world: World) -> None:
    """The same keys as those with a hint; a replaced one is only there when it is asked for."""
    tenants = [make_tenant(f"Key {number}") for number in range(6)]
    customers = {"mode": "customer", "wrapped_private_key": None}
    keys = [
        make_tenant_key(tenants[0]),
        make_tenant_key(tenants[1], shown_at=NOON),
        make_tenant_key(tenants[2], **customers),
        make_tenant_key(tenants[3], **customers, tested_at=NOON),
        make_tenant_key(tenants[4], status="untested", **customers),
        make_tenant_key(tenants[5], tested_at=NOON),
        make_tenant_key(tenants[3], status="retired"),
    ]
    hinted = {keys[at].pk for at in (0, 1, 2, 4, 5)}

    answer = world.client("super").get("/keys/?rows=100")
    assert {key.pk for key, hint in answer.context["rows"] if hint} == hinted
    assert _found(world, "/keys/?to_do=on") == hinted
    assert _found(world, "/keys/") == {one.pk for one in (*keys[:6], world.ours.key, world.theirs.key)}
    assert _found(world, "/keys/?status=retired") == {keys[6].pk}
    assert _found(world, "/keys/?mode=customer") == {key.pk for key in keys[2:5]}
    assert _found(world, "/keys/?q=Key 3") == {keys[3].pk}


@pytest.mark.usefixtures("unrendered")
def test_policies_are_found_by_name_changes_and_whether_somebody_has_them(world: World) -> None:
    ours, theirs = world.ours.policy, world.theirs.policy
    Policy.objects.filter(pk=theirs.pk).update(restricted=True)
    ours.assignments.create(tenant=world.ours.tenant)
    ours.assignments.create(tag="web")

    assert _found(world, "/policies/?changes=no") == {theirs.pk}
    assert _found(world, "/policies/?changes=yes") == {ours.pk}
    assert [row.pk for row in read(world, "/policies/?given=yes").rows] == [ours.pk]
    assert _found(world, "/policies/?given=no") == {theirs.pk}
    assert _found(world, "/policies/?q=policy-b") == {theirs.pk}
    # To whom else it is given is no business of who follows it.
    assert "given" not in world.client("admin_a").get("/policies/").context["listed"].form.fields
    assert _found(world, "/policies/?given=no", "admin_a") == {ours.pk}
    rows = world.client("super").get("/policies/").context["rows"]
    assert [(policy.pk, count) for policy, count in rows] == [(ours.pk, 1), (theirs.pk, 1)]


def _request(world: World, number: int, **changes: Any) -> ApprovalRequest:
    made = make_approval_request(world.ours.definition, by=world.ours.member)
    # Keys of one millisecond are in no order: those of a test are in that of their numbers.
    key = UUID(int=made.pk.int >> 80 << 80 | number)
    ApprovalRequest.objects.filter(pk=made.pk).update(
        **{"id": key, "subject_name": f"object {number}", "subject_id": f"{number}", **changes}
    )
    return ApprovalRequest.objects.get(pk=key)


@pytest.mark.usefixtures("unrendered")
def test_approvals_begin_with_what_waits_for_who_looks(world: World) -> None:
    ApprovalRequest.objects.all().delete()
    own = _request(world, 0, requested_by=world.people["admin_a"])
    approved = _request(world, 1, status="approved")
    not_his = _request(world, 2, kind=ApprovalKind.TENANT_DELETE)
    over = _request(world, 3, status="declined")
    late = _request(world, 4, expires_at=NOON)
    waiting = [_request(world, 5 + number) for number in range(2)]
    theirs = make_approval_request(world.theirs.definition, by=world.theirs.member)

    def shown(query: str = "", name: str = "admin_a") -> list[Any]:
        found = world.client(name).get(f"/approvals/?rows=50&{query}").context["listed"]
        return [row.pk for row in found.rows]

    newest = [one.pk for one in reversed(waiting)]
    assert shown() == [*newest, not_his.pk, approved.pk, own.pk]
    assert shown("state=you") == newest
    assert shown("state=you&sort=asked") == newest[::-1]
    assert shown("state=pending") == [*newest, late.pk, not_his.pk, own.pk]
    assert shown("state=declined") == [over.pk]
    assert shown("state=all") == [*newest, late.pk, over.pk, not_his.pk, approved.pk, own.pk]
    assert shown("q=object 5") == [waiting[0].pk]
    assert shown("kind=tenant.delete") == [not_his.pk]
    assert shown("state=you", "admin_b") == [theirs.pk]
    assert set(shown("state=you", "super")) == {*newest, not_his.pk, own.pk, theirs.pk}
    # Who was given his role by the one who asks cannot be the second person.
    record(action="role.grant", subject=world.people["admin_a"], actor=world.ours.member)
    assert shown("state=you") == [] and shown()[0] == waiting[1].pk


def test_only_what_is_open_has_buttons_and_what_is_over_has_its_reason(world: World) -> None:
    ApprovalRequest.objects.all().delete()
    waiting, over = _request(world, 1), _request(world, 2, status="declined", reason="not now")
    late = _request(world, 3, expires_at=NOON)

    text = world.client("admin_a").get("/approvals/?state=all").content.decode()

    rows = {one.pk: text.split(f'id="approval-{one.pk}"')[1].split("</tr>")[0] for one in (waiting, over, late)}
    assert "Approve" in rows[waiting.pk] and "Decline" in rows[waiting.pk]
    assert "not now" in rows[over.pk] and "<form" not in rows[over.pk] + rows[late.pk]


def test_a_form_in_a_row_that_is_refused_shows_its_row_and_leads_back_to_the_list(world: World) -> None:
    """Also where the list as it was left does not hold the row; its links are those of the list, not of the answer."""
    client = world.client("admin_a")
    ApprovalRequest.objects.all().delete()
    waiting, other = _request(world, 1), _request(world, 2, status="declined")
    client.get("/approvals/?keep=1&state=declined")

    answer = client.post(f"/approvals/{waiting.pk}/decline/", {"reason": "x" * 301}, format="multipart")

    text = answer.content.decode()
    assert answer.status_code == 400 and text.count('aria-invalid="true"') == 1
    assert text.index(f'id="approval-{waiting.pk}"') < text.index(f'id="approval-{other.pk}"')
    assert 'action="/approvals/"' in text and 'href="/approvals/?state=declined&amp;' in text
    assert 'href="?' not in text and '<option value="declined" selected>' in text
    waiting.refresh_from_db()
    assert waiting.status == "pending"
