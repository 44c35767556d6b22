"""What of the es grammar is below `/api/`, beside version 1. Its clients send a slash at the end, or none."""

from __future__ import annotations

from django.urls import re_path

from tenants.es_accounts import LoginView, LogoutView

app_name = "es"
urlpatterns = [
    re_path(r"^accounts/login/?$", LoginView.as_view(), name="login"),
    re_path(r"^accounts/logout/?$", LogoutView.as_view(), name="logout"),
]
