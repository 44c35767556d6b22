"""Pages of notifications."""

from __future__ import annotations

from django.urls import path

from tenants.notices import views

urlpatterns = [
    path("notifications/", views.notice_list, name="notice-list"),
    path("subscriptions/new/", views.subscription_new, name="subscription-new"),
    path("subscriptions/<uuid:pk>/remove/", views.subscription_remove, name="subscription-remove"),
    path("deliveries/<uuid:pk>/retry/", views.delivery_retry, name="delivery-retry"),
    path("webhooks/new/", views.webhook_new, name="webhook-new"),
    path("webhooks/<uuid:pk>/", views.webhook_detail, name="webhook-detail"),
    path("webhooks/<uuid:pk>/test/", views.webhook_test, name="webhook-test"),
    path("webhooks/<uuid:pk>/status/", views.webhook_status, name="webhook-status"),
    path("webhooks/<uuid:pk>/rotate/", views.webhook_rotate, name="webhook-rotate"),
    path("webhooks/<uuid:pk>/remove/", views.webhook_remove, name="webhook-remove"),
]
