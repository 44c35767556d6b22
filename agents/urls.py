"""Pages of agents and people, and the one where somebody who was invited joins."""

from __future__ import annotations

from django.urls import path

from agents import agents_views, views
from agents.choosing import DISKS, SERVERS
from tenants.choosing import choices_page

urlpatterns = [
    path("choices/servers/", choices_page(SERVERS), name=SERVERS.url_name),
    path("choices/disks/", choices_page(DISKS), name=DISKS.url_name),
    path("agents/", agents_views.agent_list, name="agent-list"),
    path("agents/<uuid:pk>/", agents_views.agent_detail, name="agent-detail"),
    path("agents/<uuid:pk>/approve/", agents_views.agent_approve, name="agent-approve"),
    path("agents/<uuid:pk>/revoke/", agents_views.agent_revoke, name="agent-revoke"),
    path("people/", views.people_list, name="people-list"),
    path("people/invite/", views.people_invite, name="people-invite"),
    path("people/<uuid:pk>/", views.person_detail, name="person-detail"),
    path("people/<uuid:pk>/grant/", views.person_grant, name="person-grant"),
    path("people/<uuid:pk>/remove/", views.person_remove, name="person-remove"),
    path("people/<uuid:pk>/active/", views.person_active, name="person-active"),
    path("invitations/<uuid:pk>/withdraw/", views.invitation_withdraw, name="invitation-withdraw"),
    path("join/", views.join, name="join"),
    path("join/<str:token>/", views.invitation, name="invitation"),
]
