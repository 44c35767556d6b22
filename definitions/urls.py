"""Pages of definitions; their detail page, which shows backups, is of the app backups."""

from __future__ import annotations

from django.urls import path

from definitions import hold_views, orders_views, policy_views, simulator_views, views

urlpatterns = [
    path("definitions/new/", views.definition_create, name="definition-create"),
    path("definitions/simulation/", simulator_views.simulation, name="simulation"),
    path("pauses/", hold_views.hold_list, name="hold-list"),
    path("pauses/new/", hold_views.pause_create, name="pause-create"),
    path("pauses/<uuid:pk>/end/", hold_views.pause_end, name="pause-end"),
    path("blackouts/new/", hold_views.blackout_create, name="blackout-create"),
    path("blackouts/<uuid:pk>/remove/", hold_views.blackout_remove, name="blackout-remove"),
    path("orders/", orders_views.order_list, name="order-list"),
    path("orders/new/", orders_views.order_create, name="order-create"),
    path("orders/<uuid:pk>/send-again/", orders_views.order_send_again, name="order-send-again"),
    path("policies/", policy_views.policy_list, name="policy-list"),
    path("policies/new/", policy_views.policy_create, name="policy-create"),
    path("policies/<uuid:pk>/", policy_views.policy_detail, name="policy-detail"),
    path("policies/<uuid:pk>/edit/", policy_views.policy_edit, name="policy-edit"),
    path("policies/<uuid:pk>/delete/", policy_views.policy_delete, name="policy-delete"),
    path("policies/<uuid:pk>/take-back/<int:assignment_pk>/", policy_views.policy_unassign, name="policy-unassign"),
    path("definitions/places/", views.definition_places, name="definition-places"),
    path("definitions/preview/", views.schedule_preview, name="schedule-preview"),
    path("definitions/<uuid:pk>/edit/", views.definition_edit, name="definition-edit"),
]
