"""Addresses below `/agent/v1/` that need no jobs; the others are in `backups.agent_urls`."""

from __future__ import annotations

from django.urls import path

from agents import agent_api

urlpatterns = [
    path("enrol/", agent_api.enrol_view, name="enrol"),
    path("me/", agent_api.me_view, name="me"),
    path("rotate/", agent_api.rotate_view, name="rotate"),
    path("unenrol/", agent_api.unenrol_view, name="unenrol"),
    path("releases/<str:file>", agent_api.release_view, name="release"),
]
