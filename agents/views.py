"""People of the portal: who is there, with which rights; inviting; and joining by a link."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from django.contrib import messages
from django.contrib.auth.views import redirect_to_login
from django.http import Http404, HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.debug import sensitive_post_parameters
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from agents.forms import InvitationForm, JoinForm, RoleForm
from agents.invitations import (
    accept_invitation,
    account_of,
    invitation_link,
    invite,
    open_invitation,
    withdraw_invitation,
)
from agents.list_forms import PersonFilters
from agents.models import Server
from agents.people import HeldRole, companies_of, grant_role, remove_from_tenant, revoke_role, roles_of, set_active
from agents.people_serializers import PersonSerializer
from common.errors import BackupsiteError, NotAllowedError, NotFoundError
from tenants.access import get_for_user, may, may_create, tenants_for_new
from tenants.listing import Listing, Sort
from tenants.models import Invitation, Person, Tenant
from tenants.roles import Action, Role
from tenants.views import STATUS_WRONG_INPUT, back_with_error, portal_page, show_error

SHOWN_ROLES = 100
TOKEN_IN_SESSION = "invitation"  # noqa: S105  # where the link's token waits for its form


PEOPLE = Listing(
    name="people",
    form=PersonFilters,
    sorts={
        "name": Sort("Name", ("username",)),
        "email": Sort("E-mail", ("email",)),
        "joined": Sort("Joined", ("date_joined",), falls=True),
    },
    order="name",
    serializer=PersonSerializer,
)


@require_GET
@portal_page
def people_list(request: HttpRequest) -> HttpResponseBase:
    open_ones = Invitation.objects.for_user(request.user).open(timezone.now()).select_related("tenant")
    context = {
        "invitations": open_ones.order_by("-created_at")[:100],
        "may_invite": may_create(request.user, Invitation),
    }
    return PEOPLE.answer(request, Person.objects.for_user(request.user), "agents/people.html", context)


@require_http_methods(["GET", "POST"])
@portal_page
def people_invite(request: HttpRequest) -> HttpResponse:
    """The link is on the page that answers, once; it is in no address and no log."""
    if not may_create(request.user, Invitation):
        raise NotAllowedError("Your role does not invite people. Ask an administrator of the tenant.")
    form = InvitationForm(request.POST or None, person=request.user, tenants=_tenants(request.user))
    context: dict[str, Any] = {"form": form}
    if request.method == "POST" and form.is_valid():
        try:
            made, token = invite(actor=request.user, now=timezone.now(), **form.cleaned_data)
            context |= {"invitation": made, "link": invitation_link(token)}
        except BackupsiteError as error:
            show_error(form, error)
    return render(request, "agents/invite.html", context, status=STATUS_WRONG_INPUT if form.errors else 200)


@require_POST
@portal_page
def invitation_withdraw(request: HttpRequest, pk: UUID) -> HttpResponse:
    found = get_for_user(Invitation.objects.all(), person=request.user, action=Action.DELETE, pk=pk)
    try:
        withdraw_invitation(invitation=found, actor=request.user)
    except BackupsiteError as error:
        return back_with_error(request, error, otherwise=reverse("people-list"))
    messages.success(request, f"The invitation of {found.email} is withdrawn.")
    return redirect("people-list")


# --- one person -------------------------------------------------------------------------------------------------------


@require_GET
@portal_page
def person_detail(request: HttpRequest, pk: UUID) -> HttpResponse:
    person = _person(request, pk, Action.VIEW)
    form = _role_form(request) if may(request.user, Action.EDIT, person) else None
    return _show(request, person, form)


def _show(request: HttpRequest, person: Person, form: RoleForm | None) -> HttpResponse:
    """`form` is None for who may only look. Of very many roles the first ones are shown."""
    held = roles_of(person, seen_by=request.user, most=SHOWN_ROLES + 1)
    companies = companies_of(person, seen_by=request.user, most=SHOWN_ROLES + 1)
    context = {
        "person": person,
        "held": held[:SHOWN_ROLES],
        "companies": companies[:SHOWN_ROLES],
        "limit": SHOWN_ROLES if max(len(held), len(companies)) > SHOWN_ROLES else None,
        "may_edit": form is not None,
        "form": form,
    }
    status = STATUS_WRONG_INPUT if form is not None and form.errors else 200
    return render(request, "agents/person.html", context, status=status)


@require_POST
@portal_page
def person_grant(request: HttpRequest, pk: UUID) -> HttpResponse:
    """Give the role that was typed, or the one of `place`; or take that one when `take` is sent."""
    person = _person(request, pk, Action.EDIT)
    form = None if "place" in request.POST else _role_form(request, request.POST)
    if form is not None and not form.is_valid():
        return _show(request, person, form)
    held = _held(request) if form is None else form.held()
    try:
        if "take" in request.POST:
            revoke_role(person=person, held=held, actor=request.user, confirmed="confirm" in request.POST)
        else:
            grant_role(person=person, held=held, actor=request.user)
    except BackupsiteError as error:
        return back_with_error(request, error, otherwise=reverse("person-detail", args=[pk]))
    return _back_to(request, pk)


def _role_form(request: HttpRequest, data: Any = None) -> RoleForm:
    return RoleForm(data, person=request.user, tenants=_tenants(request.user))


@require_POST
@portal_page
def person_remove(request: HttpRequest, pk: UUID) -> HttpResponse:
    person = _person(request, pk, Action.EDIT)
    tenant = get_for_user(
        Tenant.objects.all(), person=request.user, action=Action.VIEW, pk=request.POST.get("tenant", "")
    )
    try:
        remove_from_tenant(person=person, tenant=tenant, actor=request.user, confirmed="confirm" in request.POST)
    except BackupsiteError as error:
        return back_with_error(request, error, otherwise=reverse("person-detail", args=[pk]))
    messages.success(request, f"{person} has no right in {tenant.title} any more.")
    return _back_to(request, pk)


@require_POST
@portal_page
def person_active(request: HttpRequest, pk: UUID) -> HttpResponse:
    person = _person(request, pk, Action.EDIT)
    try:
        set_active(person=person, active="enable" in request.POST, actor=request.user)
    except NotAllowedError as error:
        messages.error(request, error.message)
    except BackupsiteError as error:
        return back_with_error(request, error, otherwise=reverse("person-detail", args=[pk]))
    return _back_to(request, pk)


def _back_to(request: HttpRequest, pk: UUID) -> HttpResponse:
    """To the person, or to the list when he is out of reach now."""
    visible = Person.objects.for_user(request.user).filter(pk=pk).exists()
    return redirect("person-detail", pk) if visible else redirect("people-list")


def _person(request: HttpRequest, pk: UUID, action: Action) -> Person:
    found: Person = get_for_user(Person.objects.all(), person=request.user, action=action, pk=pk)
    return found


def _tenants(person: Person) -> Any:
    return tenants_for_new(person, Invitation).exclude(status__in=[Tenant.Status.DELETING, Tenant.Status.DELETED])


def _held(request: HttpRequest) -> HeldRole:
    kind, _, key = request.POST.get("place", "").partition(":")
    if kind == "tenant":
        tenant = get_for_user(Tenant.objects.all(), person=request.user, action=Action.VIEW, pk=key)
        return HeldRole(Role.DC_ADMIN, tenant)
    servers = Server.objects.select_related("tenant")
    server = get_for_user(servers, person=request.user, action=Action.EDIT, pk=key)
    return HeldRole(Role.VM_OWNER, server.tenant, server)


# --- joining ----------------------------------------------------------------------------------------------------------


@require_GET
def invitation(request: HttpRequest, token: str) -> HttpResponse:
    """The link itself: the token goes into the session, so that no further address holds it."""
    try:
        open_invitation(token, now=timezone.now())
    except NotFoundError as error:
        raise Http404(error.message) from error
    request.session[TOKEN_IN_SESSION] = token
    return redirect("join")


@sensitive_post_parameters("password")
@require_http_methods(["GET", "POST"])
def join(request: HttpRequest) -> HttpResponse:
    """Choose a password, or, with an account already, sign in and accept."""
    token = request.session.get(TOKEN_IN_SESSION, "")
    try:
        found = open_invitation(token, now=timezone.now())
    except NotFoundError as error:
        raise Http404(error.message) from error
    known = account_of(found)
    if known is not None and request.user.pk != known.pk:
        return redirect_to_login(reverse("join"))
    form = None if known is not None else JoinForm(request.POST or None)
    if request.method == "POST" and (form is None or form.is_valid()) and _accept(request, token, form):
        request.session.pop(TOKEN_IN_SESSION, None)
        messages.success(request, "Welcome. Sign in with your e-mail address." if form else "Welcome.")
        return redirect("people-list" if form is None else "login")
    status = STATUS_WRONG_INPUT if form is not None and form.errors else 200
    return render(request, "agents/join.html", {"invitation": found, "form": form}, status=status)


def _accept(request: HttpRequest, token: str, form: JoinForm | None) -> bool:
    signed_in = request.user if request.user.is_authenticated else None
    password = form.cleaned_data["password"] if form is not None else ""
    try:
        accept_invitation(token, now=timezone.now(), signed_in=signed_in, password=password)
    except (NotFoundError, NotAllowedError) as error:
        raise Http404(error.message) from error
    except BackupsiteError as error:
        if form is None:
            raise
        show_error(form, error)
        return False
    return True
