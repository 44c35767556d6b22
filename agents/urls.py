"""Pages of agents and people, and the one where somebody who was invited joins."""

from __future__ import annotations

from django.urls import path

from agents import agents_views, install_views, views
from agents.choosing import DISKS, NODES, SERVERS
from tenants.choosing import choices_page

urlpatterns = [
    path("choices/servers/", choices_page(SERVERS), name=SERVERS.url_name),
    path("choices/nodes/", choices_page(NODES), name=NODES.url_name),
    path("choices/disks/", choices_page(DISKS), name=DISKS.url_name),
    path("agents/<uuid:pk>/approve/", agents_views.agent_approve, name="agent-approve"),
    path("agents/<uuid:pk>/revoke/", agents_views.agent_revoke, name="agent-revoke"),
    path("agents/<uuid:pk>/readmit/", agents_views.agent_readmit, name="agent-readmit"),
    path("servers/<uuid:pk>/enrol/", agents_views.server_enrol, name="server-enrol"),
    path("enrolment-tokens/<uuid:pk>/contact/", agents_views.token_contact, name="enrolment-token-contact"),
    path("enrolment-tokens/<uuid:pk>/revoke/", agents_views.token_revoke, name="enrolment-token-revoke"),
    path("releases/", agents_views.release_list, name="release-list"),
    path("releases/<uuid:pk>/ring/", agents_views.release_ring, name="release-ring"),
    # For servers that have no agent yet.
    path("agent/install.sh", install_views.install_script, name="agent-install"),
    path("agent/downloads/<str:file>", install_views.download, name="agent-download"),
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
