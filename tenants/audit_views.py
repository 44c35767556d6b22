"""Pages of the audit and of what waits for a second person."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, cast
from uuid import UUID

from django import forms
from django.contrib import messages
from django.db.models import Case, F, When
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.http import require_GET, require_POST

from common.errors import BackupsiteError, NotAllowedError, NotFoundError
from common.forms import PlainForm, RowForm, row_forms
from tenants import approvals
from tenants.access import get_for_user, may_create, tenants_for_new
from tenants.approval_states import OPEN
from tenants.approvals_api import ApprovalRequestSerializer
from tenants.audit_api import AuditEventSerializer
from tenants.choosing import TENANTS, ScopedChoiceField, is_id
from tenants.list_fields import DayField, choice_field, midnight, within_days
from tenants.list_forms import ApprovalFilters
from tenants.listing import Listed, ListForm, Listing, Sort
from tenants.models import ApprovalRequest, ApprovalRule, AuditCheck, AuditEvent, Person
from tenants.models.approvals import RULE_CHOICES
from tenants.roles import Action
from tenants.views import STATUS_WRONG_INPUT, back_with_error, paginate, portal_page, show_error

# A part of a word has no index: without a first day it is looked for in this time only.
SEARCHED = timedelta(days=90)
_TEXT = {"class": "form-control"}
_SELECT = {"class": "form-select"}


class AuditFilters(ListForm):
    actor = forms.CharField(label="Who", required=False, max_length=150, widget=forms.TextInput(attrs=_TEXT))
    action = forms.CharField(label="Action", required=False, max_length=100, widget=forms.TextInput(attrs=_TEXT))
    subject = forms.CharField(label="Object", required=False, max_length=200, widget=forms.TextInput(attrs=_TEXT))
    outcome = choice_field("Outcome", AuditEvent.Outcome.choices, every="Any outcome")
    since = DayField("From")
    until = DayField("To")

    def narrow(self, events: Any, wanted: Mapping[str, Any]) -> Any:
        words = {"actor": "actor_name", "action": "action", "subject": "subject_name"}
        for name, column in words.items():
            if name in wanted:
                events = events.filter(**{f"{column}__icontains": wanted[name]})
        if "outcome" in wanted:
            events = events.filter(outcome=wanted["outcome"])
        since = self.searched_since()
        return within_days(events.filter(at__gte=since) if since else events, "at", wanted)

    def searched_since(self) -> datetime | None:
        """As far back as words are looked for without a first day; None where nothing bounds it."""
        wanted = self.wanted
        if "since" in wanted or not wanted.keys() & {"actor", "action", "subject"}:
            return None
        return (midnight(wanted["until"]) if "until" in wanted else timezone.now()) - SEARCHED


class DeclineForm(RowForm):
    """Beside one request of many."""

    reason = forms.CharField(
        label="Reason",
        required=False,
        max_length=approvals.LONGEST_REASON,
        widget=forms.TextInput(attrs={"class": "form-control form-control-sm", "placeholder": "Reason"}),
    )


class RuleForm(PlainForm):
    """A kind that is to need a second person, in a tenant or everywhere."""

    kind = forms.ChoiceField(label="What", choices=RULE_CHOICES, widget=forms.Select(attrs=_SELECT))
    tenant = ScopedChoiceField(TENANTS, label="Tenant", required=False)

    def __init__(self, *args: Any, person: Person, **options: Any) -> None:
        # The filters of the list on the same page have fields of these names.
        super().__init__(*args, auto_id="id_rule_%s", **options)
        tenant = self.fields["tenant"]
        # Only a SuperAdmin may leave it out.
        tenant.required = not person.is_superuser
        tenant.help_text = "" if tenant.required else "Empty: everywhere."
        tenant.offer(tenants_for_new(person, ApprovalRule))


_AUDIT: dict[str, Any] = {"name": "audit", "form": AuditFilters, "order": "-when", "serializer": AuditEventSerializer}
_AUDIT_SORTS = {
    "who": Sort("Who", ("actor_name",), of_few=True),
    "action": Sort("Action", ("action",), of_few=True),
    "object": Sort("Object", ("subject_name",), of_few=True),
    "outcome": Sort("Outcome", ("outcome",), of_few=True),
}
AUDIT = Listing(**_AUDIT, sorts={"when": Sort("When", ("id",), falls=True), **_AUDIT_SORTS})
# By time where a time bounds it, for that has an index of its own.
AUDIT_SEARCHED = Listing(**_AUDIT, sorts={"when": Sort("When", ("at",), falls=True), **_AUDIT_SORTS})


@require_GET
@portal_page
def audit_list(request: HttpRequest) -> HttpResponseBase:
    is_bounded = any(request.GET.get(name) for name in ("actor", "action", "subject", "since"))
    events = AuditEvent.objects.for_user(request.user)
    listed = (AUDIT_SEARCHED if is_bounded else AUDIT).read(request, events)
    if not isinstance(listed, Listed):
        return listed
    form = cast(AuditFilters, listed.form)
    context = {
        "listed": listed,
        "searched_since": form.searched_since() if form.is_valid() else None,
        "rows": [(event, differences(event)) for event in listed.rows],
        "check": AuditCheck.objects.order_by("-pk").first() if request.user.is_superuser else None,
    }
    return render(request, "tenants/audit.html", context)


def differences(event: AuditEvent) -> list[tuple[str, str, str]]:
    """(field, before, after) of what a record holds, for a small table."""
    before, after = event.before or {}, event.after or {}
    return [(name, _shown(before, name), _shown(after, name)) for name in sorted({*before, *after})]


def _shown(values: dict[str, Any], name: str) -> str:
    if name not in values:
        return ""
    value = values[name]
    return "none" if value is None else str(value)


APPROVALS = Listing(
    name="approvals",
    form=ApprovalFilters,
    sorts={
        "first": Sort("Waiting for you", ("for_you",), falls=True),
        "kind": Sort("What", ("kind", "subject_name")),
        "by": Sort("Asked for by", ("requested_by_name",)),
        "asked": Sort("Asked for", ("created_at",), falls=True),
        "until": Sort("Until", ("expires_at",)),
        "status": Sort("Status", ("status",)),
    },
    order="-first",
    serializer=ApprovalRequestSerializer,
)


@require_GET
@portal_page
def approval_list(request: HttpRequest) -> HttpResponseBase:
    listed = APPROVALS.read(request, _requests_of(request.user))
    return _approvals(request, listed) if isinstance(listed, Listed) else listed


def _refused(
    request: HttpRequest, *, declining: DeclineForm | None = None, rule: RuleForm | None = None
) -> HttpResponse:
    """The page once more, with the one of its forms that was refused."""
    listed = APPROVALS.read_again(request, _requests_of(request.user), home=reverse("approval-list"))
    return _approvals(request, listed, declining=declining, rule=rule)


def _requests_of(person: Person) -> Any:
    """What the person sees; `for_you` is 1 where he can answer, else 0."""
    for_you = Case(When(approvals.answerable_by(person, now=timezone.now()), then=1), default=0)
    return ApprovalRequest.objects.for_user(person).select_related("tenant", "requested_by").annotate(for_you=for_you)


def _approvals(
    request: HttpRequest, listed: Listed, *, declining: DeclineForm | None = None, rule: RuleForm | None = None
) -> HttpResponse:
    person: Person = request.user
    rules = ApprovalRule.objects.for_user(person).filter(required=True).select_related("tenant")
    context = {
        "listed": listed,
        # A filter is remembered: what waits is told in any case.
        "waiting_elsewhere": _requests_of(person).filter(for_you=1).count() if listed.is_narrowed else 0,
        "rows": _answerable_rows(listed.rows, person, declining),
        # Those for everywhere first.
        "rules": paginate(request, rules.order_by(F("tenant").asc(nulls_first=True), "kind", "pk"), parameter="rules"),
        "may_make_rules": may_create(person, ApprovalRule),
        "form": rule or RuleForm(person=person),
        "refused": declining or rule,
    }
    status = STATUS_WRONG_INPUT if declining or rule else 200
    return render(request, "tenants/approvals.html", context, status=status)


def _answerable_rows(
    found: Sequence[ApprovalRequest], person: Person, declining: DeclineForm | None
) -> list[tuple[ApprovalRequest, bool, bool, bool, DeclineForm]]:
    """(request, whether it is open, may be answered by this person, is his own, the form to decline it).

    The one that was refused is there, whatever the list shows.
    """
    if declining is not None and declining.row not in found:
        found = [declining.row, *found]
    now = timezone.now()
    is_open = {one.pk: one.status in OPEN and one.expires_at > now for one in found}
    answerable = approvals.which_may_approve([one for one in found if is_open[one.pk]], person)
    return [
        (one, is_open[one.pk], one.pk in answerable, one.requested_by_id == person.pk, form)
        for one, form in row_forms(found, lambda one: DeclineForm(row=one), refused=declining)
    ]


@require_POST
@portal_page
def approval_approve(request: HttpRequest, pk: UUID) -> HttpResponse:
    return _answer(request, pk, lambda found, now: approvals.approve(request=found, actor=request.user, now=now))


@require_POST
@portal_page
def approval_decline(request: HttpRequest, pk: UUID) -> HttpResponse:
    found = _request(request, pk)
    form = DeclineForm(request.POST, row=found)
    if form.is_valid():
        reason = form.cleaned_data["reason"]
        try:
            done = approvals.decline(request=found, reason=reason, actor=request.user, now=timezone.now())
        except BackupsiteError as error:
            show_error(form, error)
        else:
            return _answered(request, done)
    return _refused(request, declining=form)


@require_POST
@portal_page
def approval_withdraw(request: HttpRequest, pk: UUID) -> HttpResponse:
    return _answer(request, pk, lambda found, now: approvals.withdraw(request=found, actor=request.user, now=now))


def _answer(
    request: HttpRequest, pk: UUID, act: Callable[[ApprovalRequest, datetime], ApprovalRequest]
) -> HttpResponse:
    try:
        done = act(_request(request, pk), timezone.now())
    except BackupsiteError as error:
        return back_with_error(request, error, otherwise=reverse("approval-list"))
    return _answered(request, done)


def _request(request: HttpRequest, pk: UUID) -> ApprovalRequest:
    found: ApprovalRequest = get_for_user(ApprovalRequest.objects.all(), person=request.user, action=Action.EDIT, pk=pk)
    return found


def _answered(request: HttpRequest, done: ApprovalRequest) -> HttpResponse:
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
        _require_seen_tenant(request, form)
        return _refused(request, rule=form)
    required = request.POST.get("required") == "on"
    try:
        rule = approvals.set_rule(**form.cleaned_data, required=required, actor=request.user, now=timezone.now())
    except BackupsiteError as error:
        if not required:
            # A button beside the rule, with nothing to fill in.
            return back_with_error(request, error, otherwise=reverse("approval-list"))
        show_error(form, error)
        return _refused(request, rule=form)
    messages.success(request, f"{rule}: {'on' if rule.required else 'off'}.")
    return redirect("approval-list")


def _require_seen_tenant(request: HttpRequest, form: RuleForm) -> None:
    """A tenant by its id is the page's own doing: one that is not there is 404, as everywhere."""
    typed = request.POST.get("tenant", "")
    if "tenant" in form.errors and is_id(typed):
        raise NotFoundError("There is no such tenant.")
