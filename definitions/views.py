"""Backup definitions: list, create, change, delete, and the preview of a schedule as one types."""

from __future__ import annotations

import zoneinfo
from typing import Any
from uuid import UUID

from django import forms
from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils import timezone
from django.views.decorators.http import require_GET, require_http_methods

from common.errors import BackupsiteError, InvalidInputError, NotAllowedError
from definitions.forms import DefinitionForm, NewDefinitionForm
from definitions.models import Definition
from definitions.schedule import preview
from definitions.services import create_definition, update_definition
from tenants.access import get_for_user, may_create
from tenants.models import Person
from tenants.roles import Action
from tenants.views import STATUS_WRONG_INPUT, paginate, portal_page, show_error

SHOWN_RUNS = 5


@require_GET
@portal_page
def definition_list(request: HttpRequest) -> HttpResponse:
    definitions = Definition.objects.for_user(request.user).select_related("disk__server", "tenant", "vault__endpoint")
    searched = request.GET.get("q", "").strip().replace("\0", "")
    if searched:
        definitions = _named(definitions, searched)
    context = {
        "page": paginate(request, definitions.order_by("disk__server__name", "name", "pk")),
        "searched": searched,
        "may_create": may_create(request.user, Definition),
    }
    return render(request, "definitions/list.html", context)


def _named(definitions: Any, searched: str) -> Any:
    """Those of servers that are called so; where there are none, those that are called so themselves.

    Not both at once: an OR over two tables reads both from beginning to end.
    """
    of_servers = definitions.filter(disk__server__name__icontains=searched)
    return of_servers if of_servers.exists() else definitions.filter(name__icontains=searched)


@require_http_methods(["GET", "POST"])
@portal_page
def definition_create(request: HttpRequest) -> HttpResponse:
    person = request.user
    if not may_create(person, Definition):
        raise NotAllowedError("Your role does not create definitions. Ask an administrator of the tenant.")
    form = NewDefinitionForm(
        request.POST or None,
        person=person,
        initial={"time_zone": person.time_zone, "run_at_once": True}
        | ({"disk": request.GET["disk"]} if "disk" in request.GET else {}),
    )
    if request.method == "POST" and form.is_valid():
        created = _create(form, person)
        if created is not None:
            messages.success(request, f"The definition {created.name} is there.")
            return redirect("definition-detail", created.pk)
    context = {"form": form, **_preview(form)}
    return render(request, "definitions/form.html", context, status=_status(form))


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
    form = DefinitionForm(request.POST or None, initial=initial)
    form.fields["run_at_once"].label = "Run the next backup at once"
    if request.method == "POST" and form.is_valid() and _update(form, definition, request.user):
        messages.success(request, "The definition is changed.")
        return redirect("definition-detail", pk)
    # The service may have put what was typed on the instance: the page names the one that is stored.
    context = {"form": form, "definition": _definition(request.user, Action.VIEW, pk), **_preview(form)}
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
    """The fragment under the schedule, while a person types."""
    person_zone = request.user.time_zone
    context = _schedule(cron=request.GET.get("cron", ""), time_zone=request.GET.get("time_zone", person_zone))
    return render(request, "definitions/_schedule.html", context)


def _schedule(*, cron: str, time_zone: str) -> dict[str, Any]:
    try:
        return {"schedule": preview(cron=cron, time_zone=time_zone, after=timezone.now(), count=SHOWN_RUNS)}
    except InvalidInputError as error:
        return {"schedule_error": error.message}


def _preview(form: DefinitionForm) -> dict[str, Any]:
    shown = _schedule(cron=form["cron"].value() or "", time_zone=form["time_zone"].value() or "")
    return {**shown, "time_zones": sorted(zoneinfo.available_timezones())}


def _status(form: forms.Form) -> int:
    return STATUS_WRONG_INPUT if form.errors else 200


def _definition(person: Person, action: Action, pk: UUID) -> Definition:
    found: Definition = get_for_user(
        Definition.objects.select_related("disk__server", "tenant", "vault"), person=person, action=action, pk=pk
    )
    return found
