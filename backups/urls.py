"""Pages of servers, backups, restores and jobs."""

from __future__ import annotations

from django.urls import path

from backups.views import backups, budgets, dashboard, definitions, jobs, restores, servers, tenants, vaults

urlpatterns = [
    path("", dashboard.dashboard, name="dashboard"),
    path("servers/", servers.server_list, name="server-list"),
    path("servers/<uuid:pk>/", servers.server_detail, name="server-detail"),
    path("definitions/<uuid:pk>/", definitions.definition_detail, name="definition-detail"),
    path("definitions/<uuid:pk>/backup-now/", definitions.backup_now, name="backup-now"),
    path("backups/", backups.backup_list, name="backup-list"),
    path("backups/<uuid:pk>/", backups.backup_detail, name="backup-detail"),
    path("backups/<uuid:pk>/note/", backups.backup_note, name="backup-note"),
    path("backups/<uuid:pk>/delete/", backups.backup_delete, name="backup-delete"),
    path("backups/<uuid:pk>/verify/", backups.backup_verify, name="backup-verify"),
    path("backups/<uuid:pk>/check/", backups.backup_check, name="backup-check"),
    path("backups/<uuid:pk>/restore/", restores.backup_restore, name="backup-restore"),
    path("budgets/", budgets.budget_list, name="budget-list"),
    path("budgets/new/", budgets.budget_create, name="budget-create"),
    path("budgets/<uuid:pk>/edit/", budgets.budget_edit, name="budget-edit"),
    path("budgets/<uuid:pk>/remove/", budgets.budget_remove, name="budget-remove"),
    path("jobs/", jobs.job_list, name="job-list"),
    path("jobs/<uuid:pk>/", jobs.job_detail, name="job-detail"),
    path("jobs/<uuid:pk>/progress/", jobs.job_progress, name="job-progress"),
    path("jobs/<uuid:pk>/cancel/", jobs.job_cancel, name="job-cancel"),
    path("tenants/", tenants.tenant_list, name="tenant-list"),
    path("tenants/<uuid:pk>/", tenants.tenant_detail, name="tenant-detail"),
    path("tenants/<uuid:pk>/status/", tenants.tenant_status, name="tenant-status"),
    path("tenants/<uuid:pk>/quotas/", tenants.tenant_quotas, name="tenant-quotas"),
    path("tenants/<uuid:pk>/delete/", tenants.tenant_delete, name="tenant-delete"),
    path("tenants/<uuid:pk>/undo/", tenants.tenant_undo, name="tenant-undo"),
    path("vaults/overview/", vaults.vault_overview, name="vault-overview"),
    path("vaults/<uuid:pk>/remove/", vaults.vault_remove, name="vault-remove"),
    path("vaults/<uuid:pk>/undo-removal/", vaults.vault_undo_removal, name="vault-undo-removal"),
    path("restores/", jobs.restore_list, name="restore-list"),
]
