"""Pages of the fleet: all agents with how they do, one of them, and the restores that they ask for."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from django import forms
from django.contrib import messages
from django.db.models import Count
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.shortcuts import redirect, render
from django.utils import timezone
from django.views.decorators.http import require_GET, require_http_methods

from agents.fleet import unused_agents
from agents.list_forms import AgentFilters
from agents.models import Agent
from backups.asked_restores import confirm_restore, refuse_asked
from backups.fleet_api import FleetSerializer, with_runs
from backups.models import AskedRestore
from common.errors import BackupsiteError
from common.forms import PlainForm
from tenants.access import get_for_user, may
from tenants.listing import NEVER, Listed, Listing, Sort
from tenants.models import Quota, QuotaKind, Tenant
from tenants.roles import Action
from tenants.views import STATUS_WRONG_INPUT, portal_page, show_error

SHOWN_WAITING = 50
SHOWN_QUOTAS = 20
_AGENTS = Agent.objects.select_related("server__tenant", "release")
_ASKED = AskedRestore.objects.select_related("agent__server__tenant", "backup", "job")
_WAITING = (Agent.Status.PENDING, Agent.Status.QUARANTINED)


class CodeForm(PlainForm):
    code = forms.CharField(
        label="The code that the server shows",
        max_length=20,
        widget=forms.TextInput(attrs={"class": "form-control", "autocomplete": "off"}),
    )


AGENTS = Listing(
    name="agents",
    form=AgentFilters,
    sorts={
        "name": Sort("Agent", ("name",)),
        "state": Sort("State", ("status",), of_few=True),
        "version": Sort("Version", ("version",)),
        "seen": Sort("Last seen", ("last_seen_at",), falls=True, of_few=True, empty={"last_seen_at": NEVER}),
        "added": Sort("Added", ("created_at",), falls=True),
    },
    order="name",
    serializer=FleetSerializer,
)


@require_GET
@portal_page
def agent_list(request: HttpRequest) -> HttpResponseBase:
    """Those that wait for a person are above, for who may decide."""
    person, now = request.user, timezone.now()
    seen = _AGENTS.for_user(person)
    listed = AGENTS.read(request, with_runs(seen))
    if not isinstance(listed, Listed):
        return listed
    editable = _AGENTS.for_user(person, Action.EDIT)
    context = {
        "listed": listed,
        "waiting": editable.filter(status__in=_WAITING).order_by("created_at", "pk")[:SHOWN_WAITING],
        "unused": unused_agents(seen, now=now).count(),
        "only_unused": listed.form.is_valid() and "unused" in listed.form.wanted,
        "retirable": set(editable.filter(pk__in=[one.pk for one in listed.rows]).values_list("pk", flat=True)),
        "asked": _ASKED.for_user(person, Action.RESTORE)
        .filter(state="waits", expires_at__gt=now)
        .order_by("created_at"),
        "quotas": _quotas(person),
    }
    return render(request, "agents/agents.html", context)


@require_GET
@portal_page
def agent_detail(request: HttpRequest, pk: UUID) -> HttpResponse:
    agent = get_for_user(with_runs(_AGENTS), person=request.user, action=Action.VIEW, pk=pk)
    context = {
        "agent": agent,
        "may_edit": may(request.user, Action.EDIT, agent),
        "asked": _ASKED.for_user(request.user).filter(agent=agent).order_by("-created_at")[:10],
    }
    return render(request, "agents/agent.html", context)


@require_http_methods(["GET", "POST"])
@portal_page
def asked_restore(request: HttpRequest, pk: UUID) -> HttpResponse:
    """What a server asks for; the answer is a button, and to let it happen also the code."""
    asked = get_for_user(_ASKED, person=request.user, action=Action.RESTORE, pk=pk)
    now = timezone.now()
    form = CodeForm(request.POST if "confirm" in request.POST else None)
    try:
        if "refuse" in request.POST:
            refuse_asked(asked=asked, actor=request.user, now=now)
            messages.success(request, "The restore does not happen; the server is told.")
            return redirect("agent-detail", asked.agent_id)
        if request.method == "POST" and form.is_valid():
            job = confirm_restore(asked=asked, code=form.cleaned_data["code"], actor=request.user, now=now)
            return redirect("job-detail", job.pk)
    except BackupsiteError as error:
        show_error(form, error) if form.is_bound else messages.error(request, error.message)
    context = {"asked": asked, "form": form, "state": asked.shown_state(now)}
    return render(request, "agents/asked_restore.html", context, status=STATUS_WRONG_INPUT if form.errors else 200)


def _quotas(person: Any) -> list[tuple[Quota, int]]:
    """How many agents of how many, of the tenants that the person administers and that have a limit."""
    tenants = Tenant.objects.all() if person.is_superuser else person.administered_tenants()
    limits = Quota.objects.filter(kind=QuotaKind.AGENTS, tenant__in=tenants).select_related("tenant")
    shown = list(limits.order_by("tenant__name")[:SHOWN_QUOTAS])
    there = Agent.objects.exclude(status=Agent.Status.REVOKED).filter(
        server__tenant__in=[one.tenant_id for one in shown]
    )
    counts = dict(there.order_by().values_list("server__tenant").annotate(count=Count("pk")))
    return [(quota, counts.get(quota.tenant_id, 0)) for quota in shown]
