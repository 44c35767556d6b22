"""All addresses below `/agent/v1/`."""

from __future__ import annotations

from django.urls import path

from agents import agent_urls
from backups import agent_api

app_name = "agent"
urlpatterns = [
    *agent_urls.urlpatterns,
    path("poll/", agent_api.poll_view, name="poll"),
    path("claim/", agent_api.claim_view, name="claim"),
    path("start/", agent_api.start_view, name="start"),
    path("backups/", agent_api.backups_view, name="backups"),
    path("restores/", agent_api.restores_view, name="restores"),
    path("restores/<uuid:pk>/", agent_api.restore_view, name="restore"),
]
