"""Pages of agents: which there are, how they do, letting one in and shutting one out. The same as the API gives."""

from __future__ import annotations

from uuid import UUID

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from agents.models import Agent
from agents.principals import approve_agent, revoke_agent
from common.errors import BackupsiteError
from tenants.access import get_for_user, may
from tenants.roles import Action
from tenants.views import paginate, portal_page

SHOWN_WAITING = 50
_AGENTS = Agent.objects.select_related("server__tenant")


@require_GET
@portal_page
def agent_list(request: HttpRequest) -> HttpResponse:
    """Those that wait for approval are above, for who may let them in."""
    editable = _AGENTS.for_user(request.user, Action.EDIT)
    context = {
        "page": paginate(request, _AGENTS.for_user(request.user).order_by("name", "pk")),
        "waiting": editable.filter(status=Agent.Status.PENDING).order_by("created_at", "pk")[:SHOWN_WAITING],
    }
    return render(request, "agents/agents.html", context)


@require_GET
@portal_page
def agent_detail(request: HttpRequest, pk: UUID) -> HttpResponse:
    agent = _agent(request, pk, Action.VIEW)
    return render(request, "agents/agent.html", {"agent": agent, "may_edit": may(request.user, Action.EDIT, agent)})


@require_POST
@portal_page
def agent_approve(request: HttpRequest, pk: UUID) -> HttpResponse:
    agent = _agent(request, pk, Action.EDIT)
    try:
        approve_agent(agent=agent, actor=request.user)
    except BackupsiteError as error:
        messages.error(request, error.message)
    else:
        messages.success(request, f"The agent {agent} may work now.")
    return redirect("agent-detail", pk)


@require_http_methods(["GET", "POST"])
@portal_page
def agent_revoke(request: HttpRequest, pk: UUID) -> HttpResponse:
    """The page that asks, and the answer."""
    agent = _agent(request, pk, Action.EDIT)
    if request.method == "GET":
        return render(request, "agents/agent_revoke.html", {"agent": agent})
    revoke_agent(agent=agent, actor=request.user)
    messages.success(request, f"The agent {agent} is shut out.")
    return redirect(reverse("agent-detail", args=[pk]))


def _agent(request: HttpRequest, pk: UUID, action: Action) -> Agent:
    found: Agent = get_for_user(_AGENTS, person=request.user, action=action, pk=pk)
    return found
