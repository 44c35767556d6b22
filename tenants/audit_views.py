"""Pages of the audit and of what waits for a second person."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django import forms
from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.http import require_GET, require_POST

from common.errors import BackupsiteError, NotAllowedError
from tenants import approvals
from tenants.access import get_for_user, may_create, tenants_for_new
from tenants.approval_states import OPEN
from tenants.models import ApprovalRequest, ApprovalRule, AuditCheck, AuditEvent, Person, Tenant
from tenants.models.approvals import RULE_CHOICES
from tenants.roles import Action
from tenants.views import back_with_error, paginate, portal_page

SHOWN_CLOSED = 50
# Counting millions of rows for the number of pages would cost more than the page.
MOST_LISTED = 5000
_TEXT = {"class": "form-control"}
_SELECT = {"class": "form-select"}


class AuditFilterForm(forms.Form):
    actor = forms.CharField(label="Who", required=False, widget=forms.TextInput(attrs=_TEXT))
    action = forms.CharField(label="Action", required=False, widget=forms.TextInput(attrs=_TEXT))
    subject = forms.CharField(label="Object", required=False, widget=forms.TextInput(attrs=_TEXT))
    outcome = forms.ChoiceField(
        label="Outcome",
        required=False,
        choices=[("", "Any outcome"), *AuditEvent.Outcome.choices],
        widget=forms.Select(attrs=_SELECT),
    )
    since = forms.DateField(label="From", required=False, widget=forms.DateInput(attrs={**_TEXT, "type": "date"}))
    until = forms.DateField(label="To", required=False, widget=forms.DateInput(attrs={**_TEXT, "type": "date"}))


@require_GET
@portal_page
def audit_list(request: HttpRequest) -> HttpResponse:
    form = AuditFilterForm(request.GET)
    events = AuditEvent.objects.for_user(request.user)
    if form.is_valid():
        events = _narrowed(events, form.cleaned_data)
    page = paginate(request, events.order_by("-id")[:MOST_LISTED])
    context = {
        "form": form,
        "page": page,
        "rows": [(event, differences(event)) for event in page],
        "check": AuditCheck.objects.order_by("-pk").first() if request.user.is_superuser else None,
    }
    return render(request, "tenants/audit.html", context)


def _narrowed(events: Any, wanted: dict[str, Any]) -> Any:
    columns = {"actor": "actor_name", "action": "action", "subject": "subject_name", "outcome": "outcome"}
    for name, column in columns.items():
        if wanted[name]:
            exact = name == "outcome"
            events = events.filter(**{column if exact else f"{column}__icontains": wanted[name].replace("\0", "")})
    if wanted["since"]:
        events = events.filter(at__gte=_midnight(wanted["since"]))
    if wanted["until"]:
        events = events.filter(at__lt=_midnight(wanted["until"] + timedelta(days=1)))
    return events


def _midnight(day: Any) -> datetime:
    return timezone.make_aware(datetime(day.year, day.month, day.day))


def differences(event: AuditEvent) -> list[tuple[str, str, str]]:
    """(field, before, after) of what a record holds, for a small table."""
    before, after = event.before or {}, event.after or {}
    return [(name, _shown(before, name), _shown(after, name)) for name in sorted({*before, *after})]


def _shown(values: dict[str, Any], name: str) -> str:
    if name not in values:
        return ""
    value = values[name]
    return "none" if value is None else str(value)


@require_GET
@portal_page
def approval_list(request: HttpRequest) -> HttpResponse:
    person: Person = request.user
    seen = ApprovalRequest.objects.for_user(person).order_by("-id")
    waiting = seen.open(timezone.now()).select_related("tenant", "requested_by")
    context = {
        "waiting": [
            (found, approvals.may_approve(found, person), found.requested_by_id == person.pk)
            for found in waiting[:SHOWN_CLOSED]
        ],
        "closed": seen.exclude(status__in=OPEN)[:SHOWN_CLOSED],
        "rules": ApprovalRule.objects.for_user(person).filter(required=True).select_related("tenant").order_by("kind"),
        "may_make_rules": may_create(person, ApprovalRule),
        "rule_kinds": RULE_CHOICES,
        "tenants": tenants_for_new(person, ApprovalRule).order_by("name"),
    }
    return render(request, "tenants/approvals.html", context)


@require_POST
@portal_page
def approval_approve(request: HttpRequest, pk: UUID) -> HttpResponse:
    return _answer(request, pk, lambda found, now: approvals.approve(request=found, actor=request.user, now=now))


@require_POST
@portal_page
def approval_decline(request: HttpRequest, pk: UUID) -> HttpResponse:
    reason = request.POST.get("reason", "")
    return _answer(
        request, pk, lambda found, now: approvals.decline(request=found, reason=reason, actor=request.user, now=now)
    )


@require_POST
@portal_page
def approval_withdraw(request: HttpRequest, pk: UUID) -> HttpResponse:
    return _answer(request, pk, lambda found, now: approvals.withdraw(request=found, actor=request.user, now=now))


def _answer(
    request: HttpRequest, pk: UUID, act: Callable[[ApprovalRequest, datetime], ApprovalRequest]
) -> HttpResponse:
    found = get_for_user(ApprovalRequest.objects.all(), person=request.user, action=Action.EDIT, pk=pk)
    try:
        done = act(found, timezone.now())
    except BackupsiteError as error:
        return back_with_error(request, error, otherwise=reverse("approval-list"))
    messages.success(request, f"{done}: {done.status}.")
    return redirect("approval-list")


@require_POST
@portal_page
def approval_rule(request: HttpRequest) -> HttpResponse:
    """Switch a rule on or off: `kind`, `tenant` (empty: everywhere), `required` (on, off)."""
    if not may_create(request.user, ApprovalRule):
        raise NotAllowedError("Your role does not make rules.")
    tenant = None
    if request.POST.get("tenant"):
        tenant = get_for_user(Tenant.objects.all(), person=request.user, action=Action.VIEW, pk=request.POST["tenant"])
    required = request.POST.get("required") == "on"
    try:
        rule = approvals.set_rule(
            kind=request.POST.get("kind", ""), tenant=tenant, required=required, actor=request.user, now=timezone.now()
        )
    except BackupsiteError as error:
        return back_with_error(request, error, otherwise=reverse("approval-list"))
    messages.success(request, f"{rule}: {'on' if rule.required else 'off'}.")
    return redirect("approval-list")
