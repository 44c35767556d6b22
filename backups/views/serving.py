"""Serving a backup on its node: asked for on the backup's page, followed and ended on the job's."""

from __future__ import annotations

from uuid import UUID

from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.utils import timezone
from django.views.decorators.http import require_POST

from backups.forms import ServeForm
from backups.serving import request_serving
from backups.views.backups import backup_for, show_backup
from common.errors import BackupsiteError
from tenants.roles import Action
from tenants.views import STATUS_WRONG_INPUT, portal_page, show_error


@require_POST
@portal_page
def backup_serve(request: HttpRequest, pk: UUID) -> HttpResponse:
    backup = backup_for(request.user, Action.RESTORE, pk)
    form = ServeForm(request.POST)
    if form.is_valid():
        hours = form.cleaned_data["hours"]
        try:
            job = request_serving(backup=backup, hours=hours, actor=request.user, now=timezone.now())
        except BackupsiteError as error:
            show_error(form, error)
        else:
            return redirect("job-detail", job.pk)
    return show_backup(request, backup, serving=form, status=STATUS_WRONG_INPUT)
