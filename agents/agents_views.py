"""Pages of agents: letting one in, shutting one out, and the token that the next one comes with; as the API has it."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from django import forms
from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from agents.enrolment import (
    LONGEST_HOST,
    LONGEST_MINUTES,
    USUAL_MINUTES,
    enrol_line,
    install_line,
    make_token,
    revoke_token,
)
from agents.models import Agent, EnrolmentToken, Release, Server
from agents.principals import approve_agent, release_agent, revoke_agent
from agents.releases import set_ring, standing_of_releases
from common.errors import BackupsiteError, NotAllowedError
from common.forms import PlainForm, RowForm, row_forms
from tenants.access import get_for_user, may_create
from tenants.roles import Action
from tenants.views import STATUS_WRONG_INPUT, back_with_error, portal_page, show_error

_AGENTS = Agent.objects.select_related("server__tenant")
_INPUT = {"class": "form-control"}


class TokenForm(PlainForm):
    expected_host = forms.CharField(
        label="Name of the host",
        required=False,
        max_length=LONGEST_HOST,
        widget=forms.TextInput(attrs=_INPUT),
        help_text="An agent on another host waits for approval. Empty: any host.",
    )
    minutes = forms.IntegerField(
        label="Good for, in minutes",
        initial=USUAL_MINUTES,
        min_value=1,
        max_value=LONGEST_MINUTES,
        widget=forms.NumberInput(attrs=_INPUT),
    )


class RingForm(RowForm):
    """Beside one release of many."""

    state = forms.ChoiceField(
        label="State", choices=Release.State.choices, widget=forms.Select(attrs={"class": "form-select"})
    )
    percent = forms.IntegerField(
        label="Percent of the agents",
        min_value=0,
        max_value=100,
        error_messages=dict.fromkeys(("required", "invalid", "min_value", "max_value"), "Write a number of 0 to 100."),
        widget=forms.NumberInput(attrs=_INPUT),
    )


def _ring_form(release: Release) -> RingForm:
    return RingForm(row=release, initial={"state": release.state, "percent": release.percent})


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


@require_POST
@portal_page
def agent_readmit(request: HttpRequest, pk: UUID) -> HttpResponse:
    agent = _agent(request, pk, Action.EDIT)
    try:
        release_agent(agent=agent, actor=request.user)
    except BackupsiteError as error:
        messages.error(request, error.message)
    else:
        messages.success(request, f"The agent {agent} may work again.")
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


@require_http_methods(["GET", "POST"])
@portal_page
def server_enrol(request: HttpRequest, pk: UUID) -> HttpResponse:
    """The token is on the page that answers, once; it is in no address and no log."""
    server = get_for_user(
        Server.objects.select_related("tenant", "node"), person=request.user, action=Action.EDIT, pk=pk
    )
    if not may_create(request.user, EnrolmentToken):
        raise NotAllowedError("Your role makes no tokens for agents. Ask an administrator of the tenant.")
    form = TokenForm(request.POST or None, initial={"expected_host": server.name})
    tokens = EnrolmentToken.objects.for_user(request.user).filter(server=server).order_by("-created_at")
    context: dict[str, Any] = {"server": server, "form": form}
    if request.method == "POST" and form.is_valid():
        try:
            made, text = make_token(server=server, actor=request.user, now=timezone.now(), **form.cleaned_data)
            lines = {"line": install_line(text), "enrol_line": enrol_line(), "token_text": text}
            context |= {"made": made, **lines, **_contact(made)}
        except BackupsiteError as error:
            show_error(form, error)
    now = timezone.now()
    context["tokens"] = [(token, token.state(now)) for token in tokens[:10]]
    return render(request, "agents/enrol.html", context, status=STATUS_WRONG_INPUT if form.errors else 200)


@require_GET
@portal_page
def token_contact(request: HttpRequest, pk: UUID) -> HttpResponse:
    """Who came with the token; the page asks for it until somebody did. 204 when that is what it shows already."""
    tokens = EnrolmentToken.objects.select_related("server__tenant", "agent")
    context = _contact(get_for_user(tokens, person=request.user, action=Action.EDIT, pk=pk))
    if request.GET.get("seen") == context["seen"]:
        return HttpResponse(status=204)
    return render(request, "agents/_contact.html", context)


def _contact(token: EnrolmentToken) -> dict[str, Any]:
    agent = token.agent
    state = str(agent.status) if agent is not None else token.state(timezone.now())
    has_asked = agent is not None and agent.last_seen_at is not None
    is_live = state in {"open", Agent.Status.PENDING} or (state == Agent.Status.ENROLLED and not has_asked)
    return {"token": token, "state": state, "is_live": is_live, "seen": f"{state}-{int(has_asked)}"}


@require_POST
@portal_page
def token_revoke(request: HttpRequest, pk: UUID) -> HttpResponse:
    tokens = EnrolmentToken.objects.select_related("server__tenant")
    token = get_for_user(tokens, person=request.user, action=Action.EDIT, pk=pk)
    back = reverse("server-enrol", args=[token.server_id])
    try:
        revoke_token(token=token, actor=request.user, now=timezone.now())
    except BackupsiteError as error:
        return back_with_error(request, error, otherwise=back)
    messages.success(request, "Nobody enrols with this token any more.")
    return redirect(back)


@require_GET
@portal_page
def release_list(request: HttpRequest) -> HttpResponse:
    if not request.user.is_superuser:
        raise NotAllowedError("Only a SuperAdmin offers releases.")
    return _show_releases(request)


def _show_releases(request: HttpRequest, *, refused: RingForm | None = None) -> HttpResponse:
    standing = standing_of_releases()
    releases = Release.objects.for_user(request.user).order_by("-number")
    context = {
        "releases": [
            (release, standing.get(release.number, {}), form)
            for release, form in row_forms(releases, _ring_form, refused=refused)
        ],
        "refused": refused,
    }
    status = 200 if refused is None else STATUS_WRONG_INPUT
    return render(request, "agents/releases.html", context, status=status)


@require_POST
@portal_page
def release_ring(request: HttpRequest, pk: UUID) -> HttpResponse:
    release = get_for_user(Release.objects.all(), person=request.user, action=Action.EDIT, pk=pk)
    form = RingForm(request.POST, row=release)
    if not form.is_valid():
        return _show_releases(request, refused=form)
    set_ring(release=release, actor=request.user, **form.cleaned_data)
    messages.success(request, f"The release {release} is {release.get_state_display()}: {release.percent} percent.")
    return redirect("release-list")


def _agent(request: HttpRequest, pk: UUID, action: Action) -> Agent:
    found: Agent = get_for_user(_AGENTS, person=request.user, action=action, pk=pk)
    return found
