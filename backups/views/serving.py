"""Serving a backup on its node: asked for on the backup's page, followed and ended on the job's."""

from __future__ import annotations

from uuid import UUID

from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.http import require_POST

from backups.forms import ServeForm
from backups.models import Backup
from backups.serving import LONGEST_HOURS, request_serving
from common.errors import BackupsiteError, InvalidInputError
from tenants.access import get_for_user
from tenants.roles import Action
from tenants.views import back_with_error, portal_page


@require_POST
@portal_page
def backup_serve(request: HttpRequest, pk: UUID) -> HttpResponse:
    backups = Backup.objects.select_related("manifest", "storage")
    backup = get_for_user(backups, person=request.user, action=Action.RESTORE, pk=pk)
    form = ServeForm(request.POST)
    try:
        if not form.is_valid():
            raise InvalidInputError(f"A backup is served for 1 to {LONGEST_HOURS} hours.", field="hours")
        hours = form.cleaned_data["hours"]
        job = request_serving(backup=backup, hours=hours, actor=request.user, now=timezone.now())
    except BackupsiteError as error:
        return back_with_error(request, error, otherwise=reverse("backup-detail", args=[pk]))
    return redirect("job-detail", job.pk)
