"""Vaults at a glance, loaded into the first page: what tenants take up, and whether locks reach as far as promises;
and removing one."""

from __future__ import annotations

from uuid import UUID

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from backups.figures import overview_of
from backups.forms import VaultRemovalForm
from backups.leaving import leaving_of_vault, removal_of_gone_vault
from backups.remains import known_remains_of_vault
from backups.vault_removal import request_vault_removal, undo_vault_removal, uses_of_vault
from common.errors import BackupsiteError, NotFoundError
from tenants.access import get_for_user
from tenants.lifecycle import UNDO_PERIOD
from tenants.roles import Action
from tenants.sign_in.confirming import ask_to_confirm
from tenants.views import STATUS_WRONG_INPUT, back_with_error, paginate, portal_page, show_error
from vaults.models import Vault, VaultDeletion


@require_GET
@portal_page
def vault_overview(request: HttpRequest) -> HttpResponse:
    """A fragment of its own: counting takes a moment."""
    vaults = Vault.objects.for_user(request.user).exclude(status=Vault.Status.PENDING)
    page = paginate(request, vaults.select_related("tenant", "endpoint").order_by("name"))
    found = overview_of(list(page), now=timezone.now())
    context = {
        "overviews": found,
        # A tenant's space is that in all of its vaults.
        "tenants": list({each.vault.tenant_id: each for each in found}.values()),
        "count": page.paginator.count,
    }
    return render(request, "backups/_vaults.html", context)


@require_http_methods(["GET", "POST"])
@portal_page
def vault_remove(request: HttpRequest, pk: UUID) -> HttpResponse:
    """Left open until the vault is gone, it says so: who waited for that must not look at what was last."""
    try:
        return _remove(request, _vault(request, pk))
    except NotFoundError:
        finished = removal_of_gone_vault(pk, person=request.user)
        if finished is None or request.method == "POST":
            raise
        return render(request, "backups/vault_removed.html", {"deletion": finished})


def _remove(request: HttpRequest, vault: Vault) -> HttpResponse:
    form = VaultRemovalForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        ask_to_confirm(request)
        try:
            request_vault_removal(vault=vault, actor=request.user, now=timezone.now(), **form.cleaned_data)
        except BackupsiteError as error:
            show_error(form, error)
        else:
            messages.success(request, f"{vault.name} is being removed.")
            return redirect("vault-remove", vault.pk)
    deletion = VaultDeletion.objects.filter(vault=vault).first()
    now, uses, remains = timezone.now(), uses_of_vault(vault), known_remains_of_vault(vault)
    context = {
        "vault": vault,
        "form": form,
        "days": UNDO_PERIOD.days,
        "deletion": deletion,
        "may_undo": deletion is not None and now < deletion.undo_until,
        "uses": uses,
        "remains": remains,
        "leaving": leaving_of_vault(vault, deletion, remains, uses=uses, now=now) if deletion is not None else None,
    }
    return render(request, "backups/vault_remove.html", context, status=STATUS_WRONG_INPUT if form.errors else 200)


@require_POST
@portal_page
def vault_undo_removal(request: HttpRequest, pk: UUID) -> HttpResponse:
    vault = _vault(request, pk)
    try:
        undo_vault_removal(vault=vault, actor=request.user, now=timezone.now())
    except BackupsiteError as error:
        return back_with_error(request, error, otherwise=reverse("vault-remove", args=[pk]))
    messages.success(request, f"{vault.name} stays.")
    return redirect("vault-remove", pk)


def _vault(request: HttpRequest, pk: UUID) -> Vault:
    rows = Vault.objects.select_related("tenant")
    found: Vault = get_for_user(rows, person=request.user, action=Action.DELETE, pk=pk)
    return found
