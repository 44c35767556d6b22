"""The routes of `/api/v1/`."""

from __future__ import annotations

from django.urls import include, path
from drf_spectacular.views import SpectacularAPIView, SpectacularSwaggerSplitView
from rest_framework.routers import SimpleRouter

from agents.api import MeView, NodeViewSet, StorageViewSet
from backups.api import BackupViewSet, DefinitionViewSet, JobViewSet, RestoreViewSet
from backups.reports_api import AlarmViewSet, DiskViewSet, ServerViewSet, TenantViewSet, VaultViewSet
from vaults.api import TenantKeyViewSet

router = SimpleRouter()
router.register("tenants", TenantViewSet)
router.register("vaults", VaultViewSet)
router.register("keys", TenantKeyViewSet)
router.register("alarms", AlarmViewSet)
router.register("nodes", NodeViewSet)
router.register("storages", StorageViewSet)
router.register("servers", ServerViewSet)
router.register("disks", DiskViewSet)
router.register("definitions", DefinitionViewSet)
router.register("backups", BackupViewSet)
router.register("jobs", JobViewSet)
router.register("restores", RestoreViewSet, basename="restore")

_ROUTES = [
    *router.urls,
    path("me/", MeView.as_view(), name="me"),
    path("schema/", SpectacularAPIView.as_view(), name="schema"),
    path("docs/", SpectacularSwaggerSplitView.as_view(url_name="api:schema"), name="docs"),
]
urlpatterns = [path("", include((_ROUTES, "api")))]
