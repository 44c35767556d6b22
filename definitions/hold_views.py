"""Pages of what keeps definitions from starting by schedule: pauses, and times of day without backups."""

from __future__ import annotations

import zoneinfo
from typing import Any
from uuid import UUID

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from common.errors import BackupsiteError, NotAllowedError
from definitions.hold_forms import BlackoutForm, PauseForm
from definitions.holds import add_blackout, end_pause, pause, remove_blackout
from definitions.models import BlackoutWindow, DefinitionPause
from tenants.access import get_for_user, may_create
from tenants.roles import Action
from tenants.views import STATUS_WRONG_INPUT, back_with_error, paginate, portal_page, show_error

# Times without backups are set by people, a few for each tenant.
MOST_BLACKOUTS = 200


@require_GET
@portal_page
def hold_list(request: HttpRequest) -> HttpResponse:
    """What holds now, the newest first; with the buttons for who may end it."""
    person = request.user
    pauses = DefinitionPause.objects.for_user(person).filter(ended_at=None)
    blackouts = BlackoutWindow.objects.for_user(person).standing().select_related("node", "tenant")
    blackouts = blackouts.order_by("-created_at", "pk")
    context = {
        "page": paginate(
            request,
            pauses.select_related("definition__disk__server", "node", "tenant", "paused_by").order_by(
                "-created_at", "pk"
            ),
        ),
        "blackouts": blackouts[:MOST_BLACKOUTS],
        "now": timezone.now(),
        "may_hold": may_create(person, DefinitionPause),
    }
    return render(request, "definitions/holds.html", context)


@require_http_methods(["GET", "POST"])
@portal_page
def pause_create(request: HttpRequest) -> HttpResponse:
    """With `?definition=` of that one."""
    person = request.user
    _require_holder(request)
    form = PauseForm(request.POST or None, person=person, initial={"definition": request.GET.get("definition", "")})
    if request.method == "POST" and form.is_valid():
        cleaned = form.cleaned_data
        try:
            pause(reason=cleaned["reason"], until=cleaned["until"], now=timezone.now(), actor=person, **form.target())
        except BackupsiteError as error:
            show_error(form, error)
        else:
            messages.success(request, "It is paused. What is due meanwhile runs once, when the pause has ended.")
            return redirect("hold-list")
    chosen = form["definition"].value()
    shown = form.fields["definition"].queryset.filter(pk=chosen).first() if _is_id(chosen) else None
    return _page(request, form, title="Pause", definition=shown)


@require_POST
@portal_page
def pause_end(request: HttpRequest, pk: UUID) -> HttpResponse:
    found = get_for_user(DefinitionPause.objects.all(), person=request.user, action=Action.EDIT, pk=pk)
    try:
        end_pause(pause=found, now=timezone.now(), actor=request.user)
    except BackupsiteError as error:
        return back_with_error(request, error, otherwise=reverse("hold-list"))
    messages.success(request, "The pause has ended.")
    return redirect("hold-list")


@require_http_methods(["GET", "POST"])
@portal_page
def blackout_create(request: HttpRequest) -> HttpResponse:
    _require_holder(request)
    form = BlackoutForm(request.POST or None, person=request.user, initial={"time_zone": request.user.time_zone})
    if request.method == "POST" and form.is_valid():
        try:
            add_blackout(actor=request.user, **form.values())
        except BackupsiteError as error:
            show_error(form, error)
        else:
            messages.success(request, "Nothing starts by schedule at that time any more.")
            return redirect("hold-list")
    return _page(request, form, title="New time without backups")


@require_POST
@portal_page
def blackout_remove(request: HttpRequest, pk: UUID) -> HttpResponse:
    found = get_for_user(BlackoutWindow.objects.standing(), person=request.user, action=Action.DELETE, pk=pk)
    remove_blackout(window=found, now=timezone.now(), actor=request.user)
    messages.success(request, "The time without backups is removed.")
    return redirect("hold-list")


def _require_holder(request: HttpRequest) -> None:
    if not may_create(request.user, DefinitionPause):
        raise NotAllowedError("Your role does not pause backups. Ask an administrator of the tenant.")


def _page(request: HttpRequest, form: Any, **context: Any) -> HttpResponse:
    context |= {"form": form, "time_zones": sorted(zoneinfo.available_timezones())}
    status = STATUS_WRONG_INPUT if form.is_bound and form.errors else 200
    return render(request, "definitions/hold_form.html", context, status=status)


def _is_id(text: Any) -> bool:
    try:
        return bool(UUID(str(text)))
    except ValueError:
        return False
