"""Pages of keys and vaults."""

from __future__ import annotations

from django.urls import path

from vaults import list_views, region_views, vault_views, views

urlpatterns = [
    path("keys/", views.key_list, name="key-list"),
    path("keys/<uuid:pk>/", views.key_detail, name="key-detail"),
    path("keys/<uuid:pk>/show/", views.key_show, name="key-show"),
    path("keys/<uuid:pk>/test/", views.key_test, name="key-test"),
    path("keys/<uuid:pk>/answer/", views.key_answer, name="key-answer"),
    path("keys/<uuid:pk>/rotate/", views.key_rotate, name="key-rotate"),
    path("keys/<uuid:pk>/register/", views.key_register, name="key-register"),
    path("regions/", region_views.region_list, name="region-list"),
    path("regions/new/", region_views.region_create, name="region-create"),
    path("regions/<str:code>/edit/", region_views.region_edit, name="region-edit"),
    path("vaults/", list_views.vault_list, name="vault-list"),
    path("vaults/<uuid:pk>/", vault_views.vault_detail, name="vault-detail"),
    path("vaults/<uuid:pk>/accept-settings/", vault_views.vault_accept_settings, name="vault-accept-settings"),
    path("alarms/<uuid:pk>/acknowledge/", vault_views.alarm_acknowledge, name="alarm-acknowledge"),
]
