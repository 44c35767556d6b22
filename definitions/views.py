"""Backup definitions: create, change, and the preview of a schedule as one types."""

from __future__ import annotations

import zoneinfo
from datetime import time
from typing import Any
from uuid import UUID

from django import forms
from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils import timezone
from django.views.decorators.http import require_GET, require_http_methods

from common.errors import BackupsiteError, InvalidInputError, NotAllowedError
from definitions.choices import Choice, choices_for, why_not_freeze
from definitions.cron_help import OFTEN, helped_cron
from definitions.forms import DefinitionForm, NewDefinitionForm
from definitions.models import Definition
from definitions.schedule import preview
from definitions.services import create_definition, update_definition
from tenants.access import get_for_user, may_create
from tenants.models import Person
from tenants.roles import Action
from tenants.views import STATUS_WRONG_INPUT, portal_page, show_error

SHOWN_RUNS = 10


@require_http_methods(["GET", "POST"])
@portal_page
def definition_create(request: HttpRequest) -> HttpResponse:
    person = request.user
    if not may_create(person, Definition):
        raise NotAllowedError("Your role does not create definitions. Ask an administrator of the tenant.")
    form = NewDefinitionForm(
        _typed(request),
        person=person,
        initial={"time_zone": person.time_zone, "run_at_once": True}
        | ({"disk": request.GET["disk"]} if "disk" in request.GET else {})
        | _helped(request),
    )
    if form.is_bound and form.is_valid():
        created = _create(form, person)
        if created is not None:
            at_once = created.active and form.cleaned_data["run_at_once"]
            begins = " Its first backup begins within a minute." if at_once else ""
            messages.success(request, f"The definition {created.name} is there.{begins}")
            return redirect("definition-detail", created.pk)
    context = {"form": form, **_preview(form), **_places(form, person)}
    return render(request, "definitions/form.html", context, status=_status(form))


def _typed(request: HttpRequest) -> Any:
    """What is to be kept; None also when the person only asked for help with the schedule."""
    return request.POST if request.method == "POST" and "help" not in request.POST else None


def _helped(request: HttpRequest) -> dict[str, Any]:
    """Everything that was typed when a person asked for help with the schedule, with the schedule filled in."""
    if "help" not in request.POST:
        return {}
    cron = helped_cron(request.POST.get("often", ""), _clock(request.POST.get("at", "")))
    ticked = {name: name in request.POST for name in ("active", "run_at_once", "freeze_filesystem")}
    return {**request.POST.dict(), **ticked, **({"cron": cron} if cron else {})}


def _clock(text: str) -> time:
    try:
        return time.fromisoformat(text)
    except ValueError:
        return time(22)


@require_GET
@portal_page
def definition_places(request: HttpRequest) -> HttpResponse:
    """The fragments of type, storage and freezing for the disk that was just chosen, with why something cannot be."""
    if not may_create(request.user, Definition):
        raise NotAllowedError("Your role does not create definitions. Ask an administrator of the tenant.")
    form = NewDefinitionForm(None, person=request.user, initial=request.GET.dict())
    context = {"form": form, **_places(form, request.user), "is_fragment": True}
    return render(request, "definitions/_choices.html", context)


def _places(form: DefinitionForm, person: Person) -> dict[str, Any]:
    """Nothing while no disk is chosen: the plain fields are shown then."""
    if not isinstance(form, NewDefinitionForm):
        return {}
    try:
        disk = form.fields["disk"].found(str(form["disk"].value() or ""))
    except forms.ValidationError:
        return {}
    found = choices_for(disk, person=person)
    types, storages = found["type"], found["storage"]
    wanted = str(form["type"].value() or Definition.Type.VAULT)
    allowed = [one.value for one in types if not one.why_not]
    return {
        "disk": disk,
        "types": types,
        "chosen_type": wanted if wanted in allowed else next(iter(allowed), ""),
        "storages": [one for one in storages if not one.why_not],
        "chosen_storage": str(form["storage"].value() or ""),
        "refused_types": _refused(types),
        "refused_storages": _refused(storages),
        "why_not_freeze": why_not_freeze(disk),
    }


def _refused(choices: list[Choice]) -> list[Choice]:
    return [one for one in choices if one.why_not]


def _create(form: NewDefinitionForm, person: Person) -> Definition | None:
    try:
        return create_definition(actor=person, now=timezone.now(), **form.cleaned_data)
    except BackupsiteError as error:
        show_error(form, error)
        return None


@require_http_methods(["GET", "POST"])
@portal_page
def definition_edit(request: HttpRequest, pk: UUID) -> HttpResponse:
    definition = _definition(request.user, Action.EDIT, pk)
    initial = {name: getattr(definition, name) for name in DefinitionForm.base_fields if name != "run_at_once"}
    form = DefinitionForm(_typed(request), initial=initial | _helped(request))
    form.fields["run_at_once"].label = "Run the next backup at once"
    if form.is_bound and form.is_valid() and _update(form, definition, request.user):
        messages.success(request, "The definition is changed.")
        return redirect("definition-detail", pk)
    # The service may have put what was typed on the instance: the page names the one that is stored.
    stored = _definition(request.user, Action.VIEW, pk)
    context = {"form": form, "definition": stored, "why_not_freeze": why_not_freeze(stored.disk), **_preview(form)}
    return render(request, "definitions/form.html", context, status=_status(form))


def _update(form: DefinitionForm, definition: Definition, person: Person) -> bool:
    run_at_once = form.cleaned_data["run_at_once"]
    try:
        update_definition(
            definition=definition, changes=form.changes(), now=timezone.now(), run_at_once=run_at_once, actor=person
        )
    except BackupsiteError as error:
        show_error(form, error)
        return False
    return True


@require_GET
@portal_page
def schedule_preview(request: HttpRequest) -> HttpResponse:
    """The fragment under the schedule, while a person types; with `often` also the schedule that it stands for."""
    zone = request.GET.get("time_zone", request.user.time_zone)
    helped = helped_cron(request.GET.get("often", ""), _clock(request.GET.get("at", "")))
    context = _schedule(cron=helped or request.GET.get("cron", ""), time_zone=zone)
    if not helped:
        return render(request, "definitions/_schedule.html", context)
    form = DefinitionForm(None, initial={"cron": helped})
    return render(request, "definitions/_cron_help.html", {**context, "form": form})


def _schedule(*, cron: str, time_zone: str) -> dict[str, Any]:
    try:
        return {"schedule": preview(cron=cron, time_zone=time_zone, after=timezone.now(), count=SHOWN_RUNS)}
    except InvalidInputError as error:
        return {"schedule_error": error.message}


def _preview(form: DefinitionForm) -> dict[str, Any]:
    shown = _schedule(cron=form["cron"].value() or "", time_zone=form["time_zone"].value() or "")
    return {**shown, "time_zones": sorted(zoneinfo.available_timezones()), "often": OFTEN}


def _status(form: forms.Form) -> int:
    return STATUS_WRONG_INPUT if form.errors else 200


def _definition(person: Person, action: Action, pk: UUID) -> Definition:
    found: Definition = get_for_user(
        Definition.objects.select_related("disk__server", "tenant", "vault"), person=person, action=action, pk=pk
    )
    return found
