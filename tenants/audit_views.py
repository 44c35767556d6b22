"""Pages of the audit and of what waits for a second person."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django import forms
from django.contrib import messages
from django.db.models import F
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.http import require_GET, require_POST

from common.errors import BackupsiteError, NotAllowedError, NotFoundError
from common.forms import PlainForm
from tenants import approvals
from tenants.access import get_for_user, may_create, tenants_for_new
from tenants.approval_states import OPEN
from tenants.choosing import TENANTS, ScopedChoiceField, is_id
from tenants.models import ApprovalRequest, ApprovalRule, AuditCheck, AuditEvent, Person
from tenants.models.approvals import RULE_CHOICES
from tenants.roles import Action
from tenants.views import back_with_error, paginate, portal_page

SHOWN_CLOSED = 50
# Counting millions of rows for the number of pages would cost more than the page.
MOST_LISTED = 5000
# A part of a word has no index: without a first day it is looked for in this time only.
SEARCHED = timedelta(days=90)
_TEXT = {"class": "form-control"}
_SELECT = {"class": "form-select"}


class AuditFilterForm(PlainForm):
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


class RuleForm(PlainForm):
    """A kind that is to need a second person, in a tenant or everywhere."""

    kind = forms.ChoiceField(label="What", choices=RULE_CHOICES, widget=forms.Select(attrs=_SELECT))
    tenant = ScopedChoiceField(TENANTS, label="Tenant", required=False)

    def __init__(self, *args: Any, person: Person, **options: Any) -> None:
        super().__init__(*args, **options)
        tenant = self.fields["tenant"]
        # Only a SuperAdmin may leave it out.
        tenant.required = not person.is_superuser
        tenant.help_text = "" if tenant.required else "Empty: everywhere."
        tenant.offer(tenants_for_new(person, ApprovalRule))


@require_GET
@portal_page
def audit_list(request: HttpRequest) -> HttpResponse:
    form = AuditFilterForm(request.GET)
    events = AuditEvent.objects.for_user(request.user)
    since = None
    if form.is_valid():
        since = _searched_since(form.cleaned_data)
        events = _narrowed(events, form.cleaned_data, since=since)
    # By time where a time bounds it, for that has an index of its own. What is searched for is read through once, for
    # the count and the page alike.
    newest = events.order_by(*(["-id"] if since is None else ["-at", "-id"])).values_list("pk", flat=True)[:MOST_LISTED]
    page = paginate(request, newest if since is None else list(newest))
    shown = AuditEvent.objects.in_bulk(list(page))
    context = {
        "searched_since": since if form.is_valid() and not form.cleaned_data["since"] else None,
        "form": form,
        "page": page,
        "rows": [(event, differences(event)) for event in (shown[key] for key in page)],
        "check": AuditCheck.objects.order_by("-pk").first() if request.user.is_superuser else None,
    }
    return render(request, "tenants/audit.html", context)


def _searched_since(wanted: dict[str, Any]) -> datetime | None:
    """From when on: what the person chose, else as far back as words are looked for; None for no bound."""
    if wanted["since"]:
        return _midnight(wanted["since"])
    has_words = any(wanted[name] for name in ("actor", "action", "subject"))
    return (timezone.now() if not wanted["until"] else _midnight(wanted["until"])) - SEARCHED if has_words else None


def _narrowed(events: Any, wanted: dict[str, Any], *, since: datetime | None) -> Any:
    columns = {"actor": "actor_name", "action": "action", "subject": "subject_name", "outcome": "outcome"}
    for name, column in columns.items():
        if wanted[name]:
            exact = name == "outcome"
            events = events.filter(**{column if exact else f"{column}__icontains": wanted[name].replace("\0", "")})
    if since is not None:
        events = events.filter(at__gte=since)
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
    waiting = list(seen.open(timezone.now()).select_related("tenant", "requested_by")[:SHOWN_CLOSED])
    answerable = approvals.which_may_approve(waiting, person)
    rules = ApprovalRule.objects.for_user(person).filter(required=True).select_related("tenant")
    context = {
        "waiting": [(found, found.pk in answerable, found.requested_by_id == person.pk) for found in waiting],
        "closed": seen.exclude(status__in=OPEN)[:SHOWN_CLOSED],
        # Those for everywhere first.
        "rules": paginate(request, rules.order_by(F("tenant").asc(nulls_first=True), "kind", "pk"), parameter="rules"),
        "may_make_rules": may_create(person, ApprovalRule),
        "form": RuleForm(person=person),
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
    """Switch a rule on or off: `kind`, `tenant` (name or id; empty: everywhere), `required` (on, off)."""
    if not may_create(request.user, ApprovalRule):
        raise NotAllowedError("Your role does not make rules.")
    form = RuleForm(request.POST, person=request.user)
    if not form.is_valid():
        return _refused(request, form)
    required = request.POST.get("required") == "on"
    try:
        rule = approvals.set_rule(**form.cleaned_data, required=required, actor=request.user, now=timezone.now())
    except BackupsiteError as error:
        return back_with_error(request, error, otherwise=reverse("approval-list"))
    messages.success(request, f"{rule}: {'on' if rule.required else 'off'}.")
    return redirect("approval-list")


def _refused(request: HttpRequest, form: RuleForm) -> HttpResponse:
    """A tenant by its id is the page's own doing: one that is not there is 404, as everywhere."""
    typed = request.POST.get("tenant", "")
    if "tenant" in form.errors and is_id(typed):
        raise NotFoundError("There is no such tenant.")
    messages.error(request, " ".join(text for texts in form.errors.values() for text in texts))
    return redirect("approval-list")
