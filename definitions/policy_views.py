"""Pages of policies: what they give, making and changing them, and to whom they are given."""

from __future__ import annotations

import zoneinfo
from collections.abc import Callable, Sequence
from typing import Any
from uuid import UUID

from django.contrib import messages
from django.db.models import Count, prefetch_related_objects
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.shortcuts import redirect, render
from django.utils import timezone
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from common.errors import BackupsiteError, NotAllowedError, NotFoundError
from definitions.list_forms import PolicyFilters
from definitions.models import Definition, Policy, PolicyAssignment
from definitions.planning_api import PolicySerializer
from definitions.policies import assign, create_policy, delete_policy, unassign, update_policy
from definitions.policy_forms import NewPolicyForm, PolicyForm, PolicyTargetForm, initial_of
from tenants.access import get_for_user, may_create
from tenants.listing import Listed, Listing, Sort
from tenants.models import Person
from tenants.roles import Action
from tenants.views import STATUS_WRONG_INPUT, back_with_error, paginate, portal_page, show_error

POLICIES = Listing(
    name="policies",
    form=PolicyFilters,
    sorts={
        "name": Sort("Name", ("name",)),
        "window": Sort("Window", ("window_start", "window_end")),
        "changes": Sort("Changes by the tenant", ("restricted",)),
        "added": Sort("Added", ("created_at",), falls=True),
    },
    order="name",
    serializer=PolicySerializer,
)


@require_GET
@portal_page
def policy_list(request: HttpRequest) -> HttpResponseBase:
    """What the provider's policies give; a tenant sees those that its definitions follow."""
    listed = POLICIES.read(request, Policy.objects.for_user(request.user))
    if not isinstance(listed, Listed):
        return listed
    followers = _follower_counts(listed.rows) if request.user.is_superuser else {}
    if request.user.is_superuser:
        prefetch_related_objects(listed.rows, "assignments__server", "assignments__tenant")
    rows = [(policy, followers.get(policy.pk, 0)) for policy in listed.rows]
    return render(request, "definitions/policies.html", {"listed": listed, "rows": rows})


def _follower_counts(policies: Sequence[Policy]) -> dict[UUID, int]:
    """How many definitions follow each of them; those that nobody follows are left out."""
    followers = Definition.objects.filter(policy__in=[policy.pk for policy in policies]).order_by()
    return dict(followers.values_list("policy").annotate(count=Count("pk")))


@require_http_methods(["GET", "POST"])
@portal_page
def policy_create(request: HttpRequest) -> HttpResponse:
    person = request.user
    if not may_create(person, Policy):
        raise NotAllowedError("Only a SuperAdmin makes, changes and assigns policies.")
    form = NewPolicyForm(request.POST or None, initial={"time_zone": person.time_zone, **NewPolicyForm.usual()})
    if request.method == "POST" and form.is_valid():
        made = _tried(form, lambda: create_policy(name=form.cleaned_data["name"], actor=person, **form.changes()))
        if made is not None:
            messages.success(request, f"The policy {made.name} is there. Say now to whom it is given.")
            return redirect("policy-detail", made.pk)
    return _form_page(request, form)


@require_http_methods(["GET", "POST"])
@portal_page
def policy_edit(request: HttpRequest, pk: UUID) -> HttpResponse:
    policy = _policy(request.user, Action.EDIT, pk)
    form = PolicyForm(request.POST or None, initial=initial_of(policy))
    if request.method == "POST" and form.is_valid():
        values = {"policy": policy, "changes": form.changes(), "actor": request.user, "now": timezone.now()}
        if _tried(form, lambda: update_policy(**values)) is not None:
            messages.success(request, "The policy is changed, and the definitions that follow it from now on.")
            return redirect("policy-detail", pk)
    return _form_page(request, form, policy=policy)


@require_http_methods(["GET", "POST"])
@portal_page
def policy_detail(request: HttpRequest, pk: UUID) -> HttpResponse:
    """To whom it is given; a POST gives it to one more."""
    policy = _policy(request.user, Action.EDIT, pk)
    form = PolicyTargetForm(request.POST or None, person=request.user)
    if request.method == "POST" and form.is_valid():
        values = {"policy": policy, "actor": request.user, "now": timezone.now(), **form.target()}
        given = _tried(form, lambda: assign(**values))
        if given is not None:
            messages.success(request, f"It is given to {given.target}.")
            return redirect("policy-detail", pk)
    assignments = policy.assignments.select_related("server", "tenant", "region").order_by("pk")
    context = {
        "policy": policy,
        "page": paginate(request, assignments),
        "follower_count": policy.definitions.filter(retired_at=None).count(),
        "form": form,
    }
    return render(request, "definitions/policy.html", context, status=_status(form))


@require_POST
@portal_page
def policy_unassign(request: HttpRequest, pk: UUID, assignment_pk: int) -> HttpResponse:
    policy = _policy(request.user, Action.EDIT, pk)
    assignment = PolicyAssignment.objects.filter(pk=assignment_pk, policy=policy).first()
    if assignment is None:
        raise NotFoundError("It is not given to that any more.")
    target = assignment.target
    unassign(assignment=assignment, actor=request.user, now=timezone.now())
    messages.success(request, f"It is taken back from {target}.")
    return redirect("policy-detail", pk)


@require_http_methods(["GET", "POST"])
@portal_page
def policy_delete(request: HttpRequest, pk: UUID) -> HttpResponse:
    policy = _policy(request.user, Action.DELETE, pk)
    if request.method == "POST":
        try:
            delete_policy(policy=policy, actor=request.user)
        except BackupsiteError as error:
            return back_with_error(request, error, otherwise=request.path)
        messages.success(request, f"The policy {policy.name} is deleted.")
        return redirect("policy-list")
    return render(request, "definitions/policy_delete.html", {"policy": policy})


def _policy(person: Person, action: Action, pk: UUID) -> Policy:
    found: Policy = get_for_user(Policy.objects.all(), person=person, action=action, pk=pk)
    return found


def _tried(form: Any, act: Callable[[], Any]) -> Any:
    """What the service gives, or None with its refusal where the person typed."""
    try:
        return act()
    except BackupsiteError as error:
        show_error(form, error)
        return None


def _form_page(request: HttpRequest, form: PolicyForm, **context: Any) -> HttpResponse:
    context |= {"form": form, "time_zones": sorted(zoneinfo.available_timezones())}
    return render(request, "definitions/policy_form.html", context, status=_status(form))


def _status(form: Any) -> int:
    return STATUS_WRONG_INPUT if form.is_bound and form.errors else 200
