"""URLs of the portal and the API."""

from __future__ import annotations

from django.urls import include, path

from backupsite.health import livez, readyz
from backupsite.health_views import health_page
from backupsite.settings_views import settings_page

urlpatterns = [
    path("livez", livez),
    path("readyz", readyz),
    path("health/", health_page, name="health"),
    path("settings/", settings_page, name="settings"),
    path("api/v1/", include("backupsite.api_router")),
    # The es grammar, which has no version in its addresses.
    path("api/", include("tenants.es_urls")),
    path("api/", include("backupsite.es_api.urls")),
    path("", include("tenants.urls")),
    path("", include("tenants.notices.urls")),
    path("", include("vaults.urls")),
    path("", include("agents.urls")),
    path("", include("definitions.urls")),
    path("", include("backups.urls")),
]

handler400 = "backupsite.error_handler.bad_request"
handler403 = "backupsite.error_handler.permission_denied"
handler404 = "backupsite.error_handler.page_not_found"
handler500 = "backupsite.error_handler.server_error"
