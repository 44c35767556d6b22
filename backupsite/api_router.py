"""The routes of `/api/v1/`."""

from __future__ import annotations

from django.urls import include, path
from rest_framework.routers import SimpleRouter

from agents.agents_api import EnrolmentTokenViewSet, ReleaseViewSet
from agents.api import MeView
from agents.people_api import CompanyViewSet, InvitationViewSet, PersonViewSet
from backups.api import BackupViewSet, JobViewSet, RestoreViewSet
from backups.budgets_api import BudgetViewSet
from backups.copies_api import StrayCopyViewSet
from backups.definitions_api import DefinitionViewSet
from backups.fleet_api import AgentViewSet, AskedRestoreViewSet
from backups.nodes_api import NodeViewSet, StorageViewSet
from backups.overview_api import OverviewDaysView, OverviewView
from backups.reports_api import AlarmViewSet, DiskViewSet
from backups.tenancy_api import ServerViewSet, TenantViewSet
from backups.vaults_api import VaultViewSet
from backupsite.docs_views import DocsView
from backupsite.health_views import HealthView
from definitions.orders_api import OrderViewSet
from definitions.planning_api import BlackoutViewSet, PauseViewSet, PolicyViewSet
from tenants.api.schema_view import SchemaView
from tenants.approvals_api import ApprovalRequestViewSet, ApprovalRuleViewSet
from tenants.audit_api import AuditEventViewSet
from tenants.notices.api import DeliveryViewSet, EventKindView, SubscriptionViewSet, WebhookViewSet
from tenants.tokens_api import ApiTokenViewSet
from vaults.api import TenantKeyViewSet
from vaults.regions_api import RegionViewSet

router = SimpleRouter()
router.register("tenants", TenantViewSet)
router.register("companies", CompanyViewSet)
router.register("people", PersonViewSet)
router.register("invitations", InvitationViewSet)
router.register("regions", RegionViewSet)
router.register("vaults", VaultViewSet)
router.register("keys", TenantKeyViewSet)
router.register("alarms", AlarmViewSet)
router.register("nodes", NodeViewSet)
router.register("storages", StorageViewSet)
router.register("servers", ServerViewSet)
router.register("disks", DiskViewSet)
router.register("definitions", DefinitionViewSet)
router.register("pauses", PauseViewSet)
router.register("blackouts", BlackoutViewSet)
router.register("policies", PolicyViewSet)
router.register("backups", BackupViewSet)
router.register("jobs", JobViewSet)
router.register("budgets", BudgetViewSet)
router.register("stray-copies", StrayCopyViewSet)
router.register("restores", RestoreViewSet, basename="restore")

router.register("audit", AuditEventViewSet)
router.register("approvals", ApprovalRequestViewSet)
router.register("approval-rules", ApprovalRuleViewSet)
router.register("agents", AgentViewSet)
router.register("enrolment-tokens", EnrolmentTokenViewSet)
router.register("releases", ReleaseViewSet)
router.register("orders", OrderViewSet)
router.register("asked-restores", AskedRestoreViewSet)
router.register("tokens", ApiTokenViewSet)
router.register("webhooks", WebhookViewSet)
router.register("subscriptions", SubscriptionViewSet)
router.register("deliveries", DeliveryViewSet)

_ROUTES = [
    *router.urls,
    path("events/", EventKindView.as_view(), name="events"),
    path("health/", HealthView.as_view(), name="health"),
    path("me/", MeView.as_view(), name="me"),
    path("overview/", OverviewView.as_view(), name="overview"),
    path("overview/days/", OverviewDaysView.as_view(), name="overview-days"),
    path("schema/", SchemaView.as_view(), name="schema"),
    path("docs/", DocsView.as_view(), name="docs"),
]
urlpatterns = [path("", include((_ROUTES, "api")))]
