"""The settings of the installation as a page, for SuperAdmins. They are changed where the processes are started."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_GET

from backupsite.shown_settings import database_kind, shown_settings
from common.errors import NotAllowedError
from tenants.views import portal_page


@require_GET
@portal_page
def settings_page(request: HttpRequest) -> HttpResponse:
    if not request.user.is_superuser:
        raise NotAllowedError("Only a SuperAdmin sees the settings of the installation.")
    context = {"groups": shown_settings(), "database": database_kind()}
    return render(request, "backupsite/settings.html", context)
