"""Pages of people, and the one where somebody who was invited joins."""

from __future__ import annotations

from django.urls import path

from agents import views

urlpatterns = [
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
