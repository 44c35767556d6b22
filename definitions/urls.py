"""Pages of definitions; their detail page, which shows backups, is of the app backups."""

from __future__ import annotations

from django.urls import path

from definitions import planning_views, views

urlpatterns = [
    path("definitions/", views.definition_list, name="definition-list"),
    path("definitions/new/", views.definition_create, name="definition-create"),
    path("definitions/overview/", planning_views.definition_overview, name="definition-overview"),
    path("definitions/load/", planning_views.load_of_nodes, name="definition-load"),
    path("policies/", planning_views.policy_list, name="policy-list"),
    path("definitions/preview/", views.schedule_preview, name="schedule-preview"),
    path("definitions/<uuid:pk>/edit/", views.definition_edit, name="definition-edit"),
    path("definitions/<uuid:pk>/delete/", views.definition_delete, name="definition-delete"),
]
