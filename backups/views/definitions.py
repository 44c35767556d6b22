"""A definition with the backups that came of it, backup now, and deleting it with or without them."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from backups.list_forms import DefinitionFilters
from backups.models import Backup
from backups.parting import delete_with_backups, parting_of
from backups.services import request_backup
from backups.standing import standings_of
from common.errors import BackupsiteError
from definitions.forms import DeletionForm
from definitions.models import Definition, EarlierSchedule
from definitions.schedule import preview
from definitions.serializers import DefinitionSerializer
from definitions.services import Fate, delete_definition
from tenants.access import get_for_user, may, may_create
from tenants.listing import NOT_YET, Listed, Listing, Sort
from tenants.roles import Action
from tenants.views import STATUS_WRONG_INPUT, back_with_error, portal_page, show_error

SHOWN_BACKUPS = 20
SHOWN_RUNS = 5
_DEFINITIONS = Definition.objects.select_related("disk__server", "tenant", "vault__endpoint", "policy")


DEFINITIONS = Listing(
    name="definitions",
    form=DefinitionFilters,
    sorts={
        "server": Sort("Disk", ("disk__server__name", "name")),
        "name": Sort("Name", ("name",)),
        # What runs no more is the last.
        "next": Sort("Next run", ("next_run_at",), of_few=True, empty={"next_run_at": NOT_YET}),
        "keeps": Sort("Keeps", ("retention_count",), falls=True, of_few=True),
        "state": Sort("State", ("active",), of_few=True),
        "added": Sort("Added", ("created_at",), falls=True),
    },
    order="server",
    serializer=DefinitionSerializer,
    related=("vault", "policy"),
)


@require_GET
@portal_page
def definition_list(request: HttpRequest) -> HttpResponseBase:
    """With what was found of each when it was looked at last, and buttons for what was chosen."""
    person = request.user
    seen = Definition.objects.for_user(person).select_related("disk__server", "tenant", "standing")
    listed = DEFINITIONS.read(request, seen)
    if not isinstance(listed, Listed):
        return listed
    keys = [one.pk for one in listed.rows]
    own = Definition.objects.for_user(person, Action.EDIT).filter(pk__in=keys, retired_at=None)
    choosable = set(own.values_list("pk", flat=True)) if keys else set()
    context = {"listed": listed, "choosable": choosable, "may_create": may_create(person, Definition)}
    return render(request, "definitions/list.html", context)


@require_GET
@portal_page
def definition_detail(request: HttpRequest, pk: UUID) -> HttpResponse:
    person = request.user
    definition = get_for_user(_DEFINITIONS.all(), person=person, action=Action.VIEW, pk=pk)
    backups = Backup.objects.for_user(person).in_catalogue().filter(definition=definition)
    earlier = EarlierSchedule.objects.for_user(person).filter(definition=definition)
    facts, standing = standings_of([definition], now=timezone.now())[definition.pk]
    context = {
        "definition": definition,
        "facts": facts,
        "standing": standing,
        "earlier": earlier.order_by("-until", "-pk")[:SHOWN_RUNS],
        "sees_vault": definition.vault is not None and may(person, Action.VIEW, definition.vault),
        "schedule": preview(
            cron=definition.cron, time_zone=definition.time_zone, after=timezone.now(), count=SHOWN_RUNS
        ),
        "backups": backups.order_by("-created_at", "-pk")[:SHOWN_BACKUPS],
        "may_run": may(person, Action.RUN, definition),
        "may_edit": may(person, Action.EDIT, definition),
        "may_delete": may(person, Action.DELETE, definition),
    }
    return render(request, "definitions/detail.html", context)


@require_POST
@portal_page
def backup_now(request: HttpRequest, pk: UUID) -> HttpResponse:
    definition = get_for_user(_DEFINITIONS.all(), person=request.user, action=Action.RUN, pk=pk)
    try:
        job = request_backup(definition=definition, actor=request.user, now=timezone.now())
    except BackupsiteError as error:
        return back_with_error(request, error, otherwise=reverse("definition-detail", args=[pk]))
    return redirect("job-detail", job.pk)


@require_http_methods(["GET", "POST"])
@portal_page
def definition_delete(request: HttpRequest, pk: UUID) -> HttpResponse:
    person, now = request.user, timezone.now()
    definition = get_for_user(_DEFINITIONS.all(), person=person, action=Action.DELETE, pk=pk)
    others = Definition.objects.for_user(person, Action.EDIT).filter(disk=definition.disk_id, retired_at=None)
    adopters = others.exclude(pk=pk).order_by("name")
    form = DeletionForm(request.POST if request.method == "POST" else None, adopters=adopters)
    if request.method == "POST" and form.is_valid() and _delete(form, definition, request, now=now):
        messages.success(request, f"The definition {definition.name} is deleted. {form.said}")
        return redirect("definition-list")
    parting = parting_of(definition, now=now)
    context = {"definition": definition, "adopters": adopters, "form": form, "parting": parting}
    return render(request, "definitions/delete.html", context, status=STATUS_WRONG_INPUT if form.errors else 200)


def _delete(form: DeletionForm, definition: Definition, request: HttpRequest, *, now: datetime) -> bool:
    chosen: dict[str, Any] = {"definition": definition, "actor": request.user, "now": now, **form.fate()}
    try:
        if chosen["backups"] is Fate.DELETE:
            del chosen["backups"]
            delete_with_backups(**chosen)
        else:
            delete_definition(**chosen)
    except BackupsiteError as error:
        show_error(form, error)
        return False
    return True
