"""Addresses below `/agent/v1/`."""

from __future__ import annotations

from django.urls import path

from agents.agent_api import HeartbeatView, MeView

app_name = "agent"
urlpatterns = [
    path("me/", MeView.as_view(), name="me"),
    path("heartbeat/", HeartbeatView.as_view(), name="heartbeat"),
]
