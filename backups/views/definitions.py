"""A definition with the backups that came of it, and backup now."""

from __future__ import annotations

from uuid import UUID

from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.http import require_GET, require_POST

from backups.models import Backup
from backups.services import request_backup
from common.errors import BackupsiteError
from definitions.models import Definition
from definitions.schedule import preview
from tenants.access import get_for_user, may
from tenants.roles import Action
from tenants.views import back_with_error, portal_page

SHOWN_BACKUPS = 20
SHOWN_RUNS = 5
_DEFINITIONS = Definition.objects.select_related("disk__server", "tenant", "vault__endpoint")


@require_GET
@portal_page
def definition_detail(request: HttpRequest, pk: UUID) -> HttpResponse:
    person = request.user
    definition = get_for_user(_DEFINITIONS.all(), person=person, action=Action.VIEW, pk=pk)
    backups = Backup.objects.for_user(person).in_catalogue().filter(definition=definition)
    context = {
        "definition": definition,
        "sees_vault": may(person, Action.VIEW, definition.vault),
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
