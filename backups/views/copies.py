"""The page of copies that were found on storages and that the catalogue does not know. SuperAdmins only."""

from __future__ import annotations

from collections.abc import Iterable
from uuid import UUID

from django import forms
from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils import timezone
from django.views.decorators.http import require_GET, require_POST

from agents.models import Storage
from backups.copies.comparing import Comparison, comparisons_of
from backups.copies.importing import import_copy, request_comparison
from backups.models import StrayCopy
from common.errors import BackupsiteError, InvalidInputError
from common.forms import RowForm, row_forms
from tenants.access import get_for_user, may_create
from tenants.models import Tenant
from tenants.renewing import RENEW_OFTEN_SECONDS, RENEW_SECONDS
from tenants.roles import Action
from tenants.views import STATUS_WRONG_INPUT, paginate, portal_page, show_error

_NO_TENANT = "There is no such tenant. Type the id that the address of its page shows."


class ImportForm(RowForm):
    """Beside one copy of many."""

    tenant = forms.UUIDField(
        label="Tenant",
        error_messages={"invalid": _NO_TENANT},
        widget=forms.TextInput(attrs={"class": "form-control", "autocomplete": "off", "spellcheck": "false"}),
    )


def _import_form(stray: StrayCopy) -> ImportForm:
    return ImportForm(row=stray, initial={"tenant": stray.manifest.get("facts", {}).get("tenant", "")})


@require_GET
@portal_page
def stray_list(request: HttpRequest) -> HttpResponse:
    return _show(request)


def _show(request: HttpRequest, *, refused: ImportForm | None = None) -> HttpResponse:
    person = request.user
    found = StrayCopy.objects.for_user(person).select_related("storage__node").order_by("-created_at", "-pk")
    may_compare = may_create(person, StrayCopy)
    storages = Storage.objects.for_user(person).filter(node__is_backup=True) if may_compare else Storage.objects.none()
    storages = storages.select_related("node").order_by("node__name", "name")
    comparisons = comparisons_of(storages, person=person, now=timezone.now())
    page = paginate(request, found)
    context = {
        "page": page,
        "rows": row_forms(page.object_list, _import_form, refused=refused),
        "refused": refused,
        "may_compare": may_compare,
        "storages": [(storage, comparisons.get(storage.pk)) for storage in storages],
        "renew_seconds": _renew_seconds(comparisons.values()),
    }
    status = 200 if refused is None else STATUS_WRONG_INPUT
    return render(request, "backups/stray_copies.html", context, status=status)


def _renew_seconds(comparisons: Iterable[Comparison]) -> int:
    """Often while somebody may wait for the end of one."""
    is_under_way = any(one.ended_at is None for one in comparisons)
    return RENEW_OFTEN_SECONDS if is_under_way else RENEW_SECONDS


@require_POST
@portal_page
def stray_import(request: HttpRequest, pk: UUID) -> HttpResponse:
    person = request.user
    stray = get_for_user(StrayCopy.objects.select_related("storage__node"), person=person, action=Action.EDIT, pk=pk)
    form = ImportForm(request.POST, row=stray)
    if form.is_valid():
        tenant = Tenant.objects.for_user(person).filter(pk=form.cleaned_data["tenant"]).first()
        try:
            if tenant is None:
                raise InvalidInputError(_NO_TENANT, field="tenant")
            backup = import_copy(stray=stray, tenant=tenant, actor=person, now=timezone.now())
        except BackupsiteError as error:
            show_error(form, error)
        else:
            messages.success(request, f"{backup.name} is a backup of {tenant} now.")
            return redirect("backup-detail", backup.pk)
    return _show(request, refused=form)


@require_POST
@portal_page
def storage_compare(request: HttpRequest, pk: UUID) -> HttpResponse:
    storage = get_for_user(Storage.objects.select_related("node"), person=request.user, action=Action.EDIT, pk=pk)
    request_comparison(storage=storage, actor=request.user)
    messages.success(request, f"{storage} is being compared with the catalogue. What came of it is said below.")
    return redirect("stray-list")
