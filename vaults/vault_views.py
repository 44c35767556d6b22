"""The page of one vault: its alarms, what its store lacks, and changed settings that wait for a SuperAdmin."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils import timezone
from django.views.decorators.http import require_GET, require_POST

from common.errors import BackupsiteError
from common.forms import row_forms
from tenants.access import get_for_user, may
from tenants.roles import Action
from tenants.views import STATUS_WRONG_INPUT, portal_page, show_error
from vaults.acceptance import accept_settings, digest_of, open_changes, weaknesses
from vaults.alarms import acknowledge_alarm
from vaults.capabilities import lacking
from vaults.forms import AcceptSettingsForm, AcknowledgeForm
from vaults.key_modes import key_mode_of
from vaults.lock_ends import lock_weeks
from vaults.models import Alarm, SettingsAcceptance, Vault

SHOWN_ALARMS = 50
SHOWN_PAST = 20
SHOWN_ACCEPTANCES = 10


@require_GET
@portal_page
def vault_detail(request: HttpRequest, pk: UUID) -> HttpResponse:
    vault = _vault(request, pk, Action.VIEW)
    return _show(request, vault, _accepting(vault))


@require_POST
@portal_page
def vault_accept_settings(request: HttpRequest, pk: UUID) -> HttpResponse:
    vault, form = _vault(request, pk, Action.EDIT), AcceptSettingsForm(request.POST)
    if form.is_valid():
        try:
            accept_settings(vault, actor=request.user, now=timezone.now(), **form.cleaned_data)
        except BackupsiteError as error:
            show_error(form, error)
        else:
            messages.success(request, "Accepted: these settings are the measure from now on.")
            return redirect("vault-detail", pk)
    return _show(request, vault, form, status=STATUS_WRONG_INPUT)


@require_POST
@portal_page
def alarm_acknowledge(request: HttpRequest, pk: UUID) -> HttpResponse:
    alarm = get_for_user(Alarm.objects.all(), person=request.user, action=Action.EDIT, pk=pk)
    form = AcknowledgeForm(request.POST, row=alarm)
    if form.is_valid():
        try:
            acknowledge_alarm(alarm, note=form.cleaned_data["note"], actor=request.user, now=timezone.now())
        except BackupsiteError as error:
            show_error(form, error)
        else:
            return redirect("vault-detail", alarm.vault_id)
    vault = _vault(request, alarm.vault_id, Action.VIEW)
    return _show(request, vault, _accepting(vault), refused=form, status=STATUS_WRONG_INPUT)


def _accepting(vault: Vault) -> AcceptSettingsForm:
    return AcceptSettingsForm(initial={"digest": digest_of(vault)})


def _vault(request: HttpRequest, pk: UUID, action: Action) -> Vault:
    vaults = Vault.objects.select_related("endpoint", "tenant", "figures", "tenant__figures", "deletion")
    found: Vault = get_for_user(vaults, person=request.user, action=action, pk=pk)
    return found


def _figures(vault: Vault) -> dict[str, Any]:
    """As they were counted last: a vault is too large to be summed for a page. None where nobody counted yet."""
    counted, space = getattr(vault, "figures", None), getattr(vault.tenant, "figures", None)
    weeks = lock_weeks(counted.lock_tail, today=timezone.now().date()) if counted else []
    failed = [check for check in vault.probe_report if check["result"] != "ok"]
    most = max((week.ending_bytes for week in weeks), default=0)
    return {"counted": counted, "space": space, "weeks": weeks, "most": most, "failed_checks": failed}


def _show(
    request: HttpRequest,
    vault: Vault,
    form: AcceptSettingsForm,
    *,
    refused: AcknowledgeForm | None = None,
    status: int = 200,
) -> HttpResponse:
    alarms = Alarm.objects.for_user(request.user).filter(vault=vault).select_related("acknowledged_by")
    standing = alarms.standing()
    deletion = getattr(vault, "deletion", None)
    context = {
        "vault": vault,
        "may_be_undone": deletion is not None and timezone.now() < deletion.undo_until,
        "alarms": row_forms(
            standing.worst_first()[:SHOWN_ALARMS], lambda alarm: AcknowledgeForm(row=alarm), refused=refused
        ),
        "refused": refused,
        "more_alarms": standing.count() - SHOWN_ALARMS,
        "past": alarms.exclude(cleared_at=None).order_by("-cleared_at", "-pk")[:SHOWN_PAST],
        "may_edit": may(request.user, Action.EDIT, vault),
        "lacking": lacking(vault.capabilities),
        "changes": open_changes(vault),
        "weaknesses": weaknesses(vault.settings_found, immutable_days=vault.immutable_days),
        "form": form,
        "acceptances": SettingsAcceptance.objects.filter(vault=vault).order_by("-created_at", "-pk")[
            :SHOWN_ACCEPTANCES
        ],
        "key_mode": key_mode_of(vault.tenant_id),
        **_figures(vault),
    }
    return render(request, "vaults/vault.html", context, status=status)
