"""Vaults at a glance: what tenants take up, and whether locks reach as far as promises. Loaded into the first page."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils import timezone
from django.views.decorators.http import require_GET

from backups.accounting import usage_of
from backups.lock_coverage import coverage_of
from tenants.views import paginate, portal_page
from vaults.models import Vault


@require_GET
@portal_page
def vault_overview(request: HttpRequest) -> HttpResponse:
    """A fragment of its own: counting takes a while in large vaults."""
    now = timezone.now()
    vaults = Vault.objects.for_user(request.user).exclude(status=Vault.Status.PENDING)
    page = paginate(request, vaults.select_related("tenant", "endpoint").order_by("name"))
    tenants = {vault.tenant_id: vault.tenant for vault in page}
    usage = [(tenant, usage_of(tenant, now=now)) for tenant in tenants.values()]
    coverage = [coverage_of(vault, now=now) for vault in page]
    return render(
        request, "backups/_vaults.html", {"usage": usage, "coverage": coverage, "count": page.paginator.count}
    )
