"""Regions, and where vaults of each region's servers must be."""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib import messages
from django.db.models import Count
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_GET, require_http_methods

from common.errors import BackupsiteError, NotAllowedError
from common.forms import PlainForm
from tenants.access import get_for_user
from tenants.roles import Action
from tenants.views import STATUS_WRONG_INPUT, paginate, portal_page, show_error
from vaults.models import Endpoint, Region, Vault
from vaults.regions import CODE_MEANING, add_region, change_region, vault_region_of


class RegionForm(PlainForm):
    title = forms.CharField(
        label="Name",
        max_length=100,
        required=False,
        help_text="For people, such as the city.",
        widget=forms.TextInput(attrs={"class": "form-control"}),
    )
    vault_region = forms.ModelChoiceField(
        label="Vaults of its servers are in",
        queryset=Region.objects.none(),
        required=False,
        empty_label="nowhere: its servers get no vault",
        help_text="Always another region: what destroys the servers must not reach their backups.",
        widget=forms.Select(attrs={"class": "form-select"}),
    )

    def __init__(self, *args: Any, region: Region | None = None, **options: Any) -> None:
        super().__init__(*args, **options)
        self.fields["vault_region"].queryset = Region.objects.exclude(pk=region and region.pk).order_by("code")


class NewRegionForm(RegionForm):
    code = forms.CharField(
        label="Code", max_length=16, help_text=CODE_MEANING, widget=forms.TextInput(attrs={"class": "form-control"})
    )
    field_order = ("code", "title", "vault_region")


@require_GET
@portal_page
def region_list(request: HttpRequest) -> HttpResponse:
    """A tenant sees the regions of its servers and vaults; SuperAdmins all, and change them."""
    rows = Region.objects.for_user(request.user).select_related("affinity__vault_region").order_by("code")
    page = paginate(request, rows)
    named = {row.pk for row in page} | {row.affinity.vault_region_id for row in page if hasattr(row, "affinity")}
    served = set(Endpoint.objects.filter(region__in=named).values_list("region_id", flat=True))
    vaults = Vault.objects.for_user(request.user).filter(endpoint__region__in=[row.pk for row in page]).order_by()
    counts = dict(vaults.values_list("endpoint__region").annotate(count=Count("pk")))
    rows = [(row, counts.get(row.pk, 0)) for row in page]
    return render(request, "vaults/regions.html", {"page": page, "rows": rows, "served": served})


@require_http_methods(["GET", "POST"])
@portal_page
def region_create(request: HttpRequest) -> HttpResponse:
    if not request.user.is_superuser:
        raise NotAllowedError("Only a SuperAdmin edits regions.")
    form = NewRegionForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        try:
            made = add_region(actor=request.user, **form.cleaned_data)
        except BackupsiteError as error:
            show_error(form, error)
        else:
            messages.success(request, f"The region {made.pk} is there.")
            return redirect("region-list")
    return _show(request, form)


@require_http_methods(["GET", "POST"])
@portal_page
def region_edit(request: HttpRequest, code: str) -> HttpResponse:
    region = get_for_user(Region.objects.all(), person=request.user, action=Action.EDIT, pk=code)
    start = {"title": region.title, "vault_region": vault_region_of(region)}
    form = RegionForm(request.POST or None, initial=start, region=region)
    if request.method == "POST" and form.is_valid():
        try:
            change_region(region=region, changes=form.cleaned_data, actor=request.user)
        except BackupsiteError as error:
            show_error(form, error)
        else:
            messages.success(request, f"The region {region.pk} is changed. Vaults that are there stay where they are.")
            return redirect("region-list")
    return _show(request, form, region)


def _show(request: HttpRequest, form: RegionForm, region: Region | None = None) -> HttpResponse:
    context = {"form": form, "region": region}
    return render(request, "vaults/region_form.html", context, status=STATUS_WRONG_INPUT if form.errors else 200)
