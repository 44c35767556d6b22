"""People, invitations and companies."""

from __future__ import annotations

from django.db import transaction
from django.utils import timezone
from drf_spectacular.utils import extend_schema
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response

from agents.invitations import invitation_link, invite, withdraw_invitation
from agents.people import grant_role, remove_from_tenant, revoke_role, set_active, set_superadmin
from agents.people_serializers import (
    CompanySerializer,
    ConfirmSerializer,
    InvitationSerializer,
    NewInvitationSerializer,
    PersonDetailSerializer,
    PersonSerializer,
    RoleSerializer,
    SentInvitationSerializer,
    SuperAdminSerializer,
    TakenRoleSerializer,
    TenantOfPersonSerializer,
)
from tenants.api import READ, ScopedViewSet, by_boolean, by_id, by_presence, times
from tenants.models import Company, Invitation, Person
from tenants.roles import Action
from tenants.sign_in.confirming import require_confirmed
from tenants.sign_in.factors import reset_factors


class PersonViewSet(ScopedViewSet):
    """Everybody sees himself; a DCAdmin the people of his tenants; a SuperAdmin all."""

    queryset = Person.objects.order_by("username")
    serializer_class = PersonSerializer
    detail_serializer_class = PersonDetailSerializer
    role_actions = {
        **READ,
        "grant": Action.EDIT,
        "revoke": Action.EDIT,
        "remove_from_tenant": Action.EDIT,
        "disable": Action.EDIT,
        "enable": Action.EDIT,
        "superadmin": Action.EDIT,
        "reset_mfa": Action.EDIT,
    }
    filters = {
        "active": by_boolean("is_active"),
        "superadmin": by_boolean("is_superuser"),
        **times("joined", "date_joined"),
    }
    search_fields = ("username", "email")
    ordering_fields = ("username",)

    @extend_schema(request=RoleSerializer, responses=PersonDetailSerializer)
    @action(detail=True, methods=["post"])
    @transaction.atomic
    def grant(self, request: Request, pk: str) -> Response:
        """Give a role in a tenant, or on a server. Whoever gets one is in the people list from then on."""
        person = self.get_object()
        grant_role(person=person, actor=request.user, **self.read_body(RoleSerializer))
        return self.answer(person)

    @extend_schema(request=TakenRoleSerializer, responses={204: None})
    @action(detail=True, methods=["post"])
    def revoke(self, request: Request, pk: str) -> Response:
        """Take a role. It is gone with the person's next request."""
        person, body = self.get_object(), self.read_body(TakenRoleSerializer)
        revoke_role(person=person, held=body["held"], actor=request.user, confirmed=body["confirm"])
        return Response(status=204)

    @extend_schema(request=TenantOfPersonSerializer, responses={204: None})
    @action(detail=True, methods=["post"], url_path="remove-from-tenant")
    def remove_from_tenant(self, request: Request, pk: str) -> Response:
        """Take every right in the tenant, and the place in its people list."""
        person, body = self.get_object(), self.read_body(TenantOfPersonSerializer)
        remove_from_tenant(person=person, tenant=body["tenant"], actor=request.user, confirmed=body["confirm"])
        return Response(status=204)

    @extend_schema(request=ConfirmSerializer, responses=PersonDetailSerializer)
    @action(detail=True, methods=["post"])
    @transaction.atomic
    def disable(self, request: Request, pk: str) -> Response:
        """Shut out of everything. A DCAdmin may only where the person belongs to nobody else."""
        person, body = self.get_object(), self.read_body(ConfirmSerializer)
        set_active(person=person, active=False, actor=request.user, confirmed=body["confirm"])
        return self.answer(person)

    @extend_schema(request=None, responses=PersonDetailSerializer)
    @action(detail=True, methods=["post"])
    @transaction.atomic
    def enable(self, request: Request, pk: str) -> Response:
        person = self.get_object()
        set_active(person=person, active=True, actor=request.user)
        return self.answer(person)

    @extend_schema(request=SuperAdminSerializer, responses=PersonDetailSerializer)
    @action(detail=True, methods=["post"])
    def superadmin(self, request: Request, pk: str) -> Response:
        """Only a SuperAdmin says who is one; the last one stays."""
        person, body = self.get_object(), self.read_body(SuperAdminSerializer)
        set_superadmin(person=person, superadmin=body["superadmin"], actor=request.user, confirmed=body["confirm"])
        return Response(self.get_serializer(person).data)

    @extend_schema(request=None, responses={204: None})
    @action(detail=True, methods=["post"], url_path="reset-mfa")
    def reset_mfa(self, request: Request, pk: str) -> Response:
        """Take the second factors of somebody who lost them. His sessions end, he is told by mail."""
        person = self.get_object()
        require_confirmed(request)
        reset_factors(person=person, actor=request.user)
        return Response(status=204)


class InvitationViewSet(ScopedViewSet):
    queryset = Invitation.objects.select_related("invited_by").order_by("-created_at", "-pk")
    serializer_class = InvitationSerializer
    role_actions = {**READ, "create": Action.CREATE, "destroy": Action.DELETE}
    filters = {"tenant": by_id("tenant"), "used": by_presence("used_at"), **times("created", "created_at")}
    search_fields = ("email",)
    ordering_fields = ("created_at",)
    # Its answer holds the link.
    secret_actions = frozenset({"create"})

    @extend_schema(request=NewInvitationSerializer, responses={201: SentInvitationSerializer})
    @transaction.atomic
    def create(self, request: Request) -> Response:
        """Ask somebody to join. The link in the answer is told once; it works once, for three days."""
        invitation, token = invite(actor=request.user, now=timezone.now(), **self.read_body(NewInvitationSerializer))
        told = {**InvitationSerializer(invitation).data, "link": invitation_link(token)}
        return Response(told, status=201)

    def destroy(self, request: Request, pk: str) -> Response:
        withdraw_invitation(invitation=self.get_object(), actor=request.user)
        return Response(status=204)


class CompanyViewSet(ScopedViewSet):
    queryset = Company.objects.select_related("tenant").order_by("name")
    serializer_class = CompanySerializer
    filters = {"tenant": by_id("tenant"), **times("created", "created_at")}
    search_fields = ("name",)
    ordering_fields = ("name", "created_at")
