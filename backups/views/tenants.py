"""Tenants: their status and limits, and what a SuperAdmin does with them."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from backups.figures import known_uses
from backups.forms import DeletionForm, QuotaForm, SuspensionForm
from backups.leaving import leaving_of_tenant
from backups.remains import known_remains_of
from backups.tenant_removal import request_tenant_deletion, undo_tenant_deletion
from common.errors import BackupsiteError
from tenants.access import get_for_user, may, may_create
from tenants.lifecycle import UNDO_PERIOD
from tenants.list_forms import TenantFilters
from tenants.listing import Listing, Sort
from tenants.models import Invitation, Person, Tenant, TenantDeletion, TenantEvent
from tenants.quotas import set_quotas, uses_of
from tenants.roles import Action
from tenants.serializers import TenantSerializer
from tenants.services import resume_tenant, suspend_tenant
from tenants.sign_in.confirming import ask_to_confirm
from tenants.views import STATUS_WRONG_INPUT, back_with_error, portal_page, show_error

SHOWN = 20


TENANTS = Listing(
    name="tenants",
    form=TenantFilters,
    sorts={
        "title": Sort("Title", ("title",)),
        "name": Sort("Name", ("name",)),
        "status": Sort("Status", ("status",)),
        "added": Sort("Added", ("created_at",), falls=True),
    },
    order="title",
    serializer=TenantSerializer,
)


@require_GET
@portal_page
def tenant_list(request: HttpRequest) -> HttpResponseBase:
    return TENANTS.answer(request, Tenant.objects.for_user(request.user), "backups/tenants.html")


@require_GET
@portal_page
def tenant_detail(request: HttpRequest, pk: UUID) -> HttpResponse:
    return _show(request, _tenant(request, pk, Action.VIEW), SuspensionForm())


def _show(request: HttpRequest, tenant: Tenant, form: SuspensionForm) -> HttpResponse:
    deletion = TenantDeletion.objects.filter(tenant=tenant).first()
    people = Person.objects.for_user(request.user).filter(memberships__company__tenant=tenant)
    now = timezone.now()
    is_leaving = deletion is not None and deletion.finished_at is None
    remains = known_remains_of(tenant) if deletion is not None else None
    context = {
        "tenant": tenant,
        "form": form,
        "quotas": uses_of(tenant, known=known_uses(tenant)),
        "events": TenantEvent.objects.filter(tenant=tenant).order_by("-pk")[:SHOWN],
        "people": people.order_by("username")[:SHOWN],
        "may_edit": may(request.user, Action.EDIT, tenant),
        "deletion": deletion,
        "remains": remains,
        "leaving": leaving_of_tenant(tenant, deletion, remains, now=now) if is_leaving else None,
        "may_undo": is_leaving and now < deletion.undo_until,
        "may_invite": may_create(request.user, Invitation),
    }
    return render(request, "backups/tenant.html", context, status=_status(form))


@require_POST
@portal_page
def tenant_status(request: HttpRequest, pk: UUID) -> HttpResponse:
    """Suspend, or resume when `resume` is sent."""
    tenant, form = _tenant(request, pk, Action.EDIT), SuspensionForm(request.POST)
    if form.is_valid():
        try:
            if "resume" in request.POST:
                resume_tenant(tenant=tenant, actor=request.user, now=timezone.now())
            else:
                suspend_tenant(tenant=tenant, actor=request.user, now=timezone.now(), **form.cleaned_data)
        except BackupsiteError as error:
            show_error(form, error)
        else:
            return redirect("tenant-detail", pk)
    return _show(request, tenant, form)


@require_http_methods(["GET", "POST"])
@portal_page
def tenant_quotas(request: HttpRequest, pk: UUID) -> HttpResponse:
    tenant = _tenant(request, pk, Action.EDIT)
    form = QuotaForm(request.POST or None, uses=uses_of(tenant))
    if request.method == "POST" and form.is_valid():
        try:
            set_quotas(tenant=tenant, limits=form.limits(), actor=request.user, now=timezone.now())
        except BackupsiteError as error:
            show_error(form, error)
        else:
            messages.success(request, "The limits are set.")
            return redirect("tenant-detail", pk)
    return render(request, "backups/tenant_quotas.html", {"tenant": tenant, "form": form}, status=_status(form))


@require_http_methods(["GET", "POST"])
@portal_page
def tenant_delete(request: HttpRequest, pk: UUID) -> HttpResponse:
    tenant = _tenant(request, pk, Action.DELETE)
    form = DeletionForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        ask_to_confirm(request)
        try:
            request_tenant_deletion(tenant=tenant, actor=request.user, now=timezone.now(), **form.cleaned_data)
        except BackupsiteError as error:
            show_error(form, error)
        else:
            messages.success(request, f"{tenant.title} is being deleted.")
            return redirect("tenant-detail", pk)
    remains = known_remains_of(tenant)
    context: dict[str, Any] = {"tenant": tenant, "form": form, "days": UNDO_PERIOD.days, "remains": remains}
    return render(request, "backups/tenant_delete.html", context, status=_status(form))


@require_POST
@portal_page
def tenant_undo(request: HttpRequest, pk: UUID) -> HttpResponse:
    tenant = _tenant(request, pk, Action.DELETE)
    try:
        undo_tenant_deletion(tenant=tenant, actor=request.user, now=timezone.now())
    except BackupsiteError as error:
        return back_with_error(request, error, otherwise=_address(pk))
    messages.success(
        request, f"The deletion of {tenant.title} is undone. It is suspended: resume it when it is to work."
    )
    return redirect("tenant-detail", pk)


def _tenant(request: HttpRequest, pk: UUID, action: Action) -> Tenant:
    found: Tenant = get_for_user(Tenant.objects.all(), person=request.user, action=action, pk=pk)
    return found


def _address(pk: UUID) -> str:
    return reverse("tenant-detail", args=[pk])


def _status(form: QuotaForm | DeletionForm | SuspensionForm) -> int:
    return STATUS_WRONG_INPUT if form.errors else 200
