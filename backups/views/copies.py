"""The page of copies that were found on storages and that the catalogue does not know. SuperAdmins only."""

from __future__ import annotations

from uuid import UUID

from django import forms
from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.http import require_GET, require_POST

from agents.models import Storage
from backups.copies.importing import import_copy, request_comparison
from backups.models import StrayCopy
from common.errors import BackupsiteError, NotFoundError
from common.forms import PlainForm
from tenants.access import get_for_user, may_create
from tenants.models import Tenant
from tenants.roles import Action
from tenants.views import back_with_error, paginate, portal_page


class ImportForm(PlainForm):
    tenant = forms.UUIDField()


@require_GET
@portal_page
def stray_list(request: HttpRequest) -> HttpResponse:
    person = request.user
    found = StrayCopy.objects.for_user(person).select_related("storage__node").order_by("-created_at", "-pk")
    may_compare = may_create(person, StrayCopy)
    storages = Storage.objects.for_user(person).filter(node__is_backup=True) if may_compare else Storage.objects.none()
    context = {
        "page": paginate(request, found),
        "may_compare": may_compare,
        "storages": storages.select_related("node").order_by("node__name", "name"),
    }
    return render(request, "backups/stray_copies.html", context)


@require_POST
@portal_page
def stray_import(request: HttpRequest, pk: UUID) -> HttpResponse:
    person = request.user
    stray = get_for_user(StrayCopy.objects.select_related("storage__node"), person=person, action=Action.EDIT, pk=pk)
    form = ImportForm(request.POST)
    key = form.cleaned_data["tenant"] if form.is_valid() else None
    try:
        tenant = get_for_user(Tenant.objects.all(), person=person, action=Action.VIEW, pk=key)
    except NotFoundError:
        messages.error(request, "There is no such tenant. Type the id that the address of its page shows.")
        return redirect("stray-list")
    try:
        backup = import_copy(stray=stray, tenant=tenant, actor=person, now=timezone.now())
    except BackupsiteError as error:
        return back_with_error(request, error, otherwise=reverse("stray-list"))
    messages.success(request, f"{backup.name} is a backup of {tenant} now.")
    return redirect("backup-detail", backup.pk)


@require_POST
@portal_page
def storage_compare(request: HttpRequest, pk: UUID) -> HttpResponse:
    storage = get_for_user(Storage.objects.select_related("node"), person=request.user, action=Action.EDIT, pk=pk)
    request_comparison(storage=storage, actor=request.user)
    messages.success(request, f"{storage} is being compared with the catalogue.")
    return redirect("stray-list")
