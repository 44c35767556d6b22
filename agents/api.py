"""Nodes, storages, servers, disks, and who the caller is."""

from __future__ import annotations

from typing import Any

from django.db import transaction
from drf_spectacular.utils import extend_schema
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response

from agents.access import role_names
from agents.models import Disk, Node, Server, Storage
from agents.people import HeldRole, grant_role, revoke_role, roles_of
from agents.people_serializers import OwnerSerializer, TakenOwnerSerializer
from agents.serializers import (
    DiskSerializer,
    MeSerializer,
    NewDiskSerializer,
    NewServerSerializer,
    NodeSerializer,
    ServerChangeSerializer,
    ServerSerializer,
    StorageSerializer,
)
from agents.services import add_disk, add_server, rename_server, set_source_name
from tenants.api import (
    READ,
    ApiView,
    KeysetPaging,
    ScopedViewSet,
    by_boolean,
    by_choice,
    by_id,
    by_presence,
    by_text,
    numbers,
    times,
)
from tenants.models import Person
from tenants.roles import Action, Role


class NodeViewSet(ScopedViewSet):
    queryset = Node.objects.order_by("name")
    serializer_class = NodeSerializer
    filters = {
        "region": by_text("region"),
        "status": by_choice("status", Node.Status.values),
        "is_backup": by_boolean("is_backup"),
        **times("created", "created_at"),
    }
    search_fields = ("name",)
    ordering_fields = ("name", "created_at")


class StorageViewSet(ScopedViewSet):
    queryset = Storage.objects.order_by("node__name", "name")
    serializer_class = StorageSerializer
    filters = {"node": by_id("node"), **times("created", "created_at")}
    search_fields = ("name",)
    ordering_fields = ("name", "created_at")


class ServerViewSet(ScopedViewSet):
    queryset = Server.objects.order_by("name", "pk")
    serializer_class = ServerSerializer
    role_actions = {
        **READ,
        "create": Action.CREATE,
        "partial_update": Action.EDIT,
        "grant": Action.EDIT,
        "revoke": Action.EDIT,
    }
    etag_fields = ("name", "region")
    filters = {
        "tenant": by_id("tenant"),
        "node": by_id("node"),
        "region": by_text("region"),
        **times("created", "created_at"),
    }
    search_fields = ("name",)
    ordering_fields = ("name", "created_at")
    pagination_class = KeysetPaging

    @extend_schema(request=NewServerSerializer, responses={201: ServerSerializer})
    @transaction.atomic
    def create(self, request: Request) -> Response:
        server = add_server(actor=request.user, **self.read_body(NewServerSerializer))
        return self.answer(server, status=201)

    @extend_schema(request=ServerChangeSerializer, responses=ServerSerializer)
    @transaction.atomic
    def partial_update(self, request: Request, pk: str) -> Response:
        server = self.get_object()
        self.change(server, self.read_body(ServerChangeSerializer, partial=True), actor=request.user)
        return self.answer(server)

    def change(self, server: Server, changes: dict[str, Any], *, actor: Person) -> None:
        if "name" in changes:
            rename_server(server=server, name=changes["name"], actor=actor)
        if "source_name" in changes:
            set_source_name(server=server, source_name=changes["source_name"], actor=actor)

    @extend_schema(request=OwnerSerializer, responses={204: None})
    @action(detail=True, methods=["post"])
    @transaction.atomic
    def grant(self, request: Request, pk: str) -> Response:
        """Make a person whom the caller sees a VmOwner of the server."""
        server, body = self.get_object(), self.read_body(OwnerSerializer)
        grant_role(person=body["person"], held=HeldRole(Role.VM_OWNER, server=server), actor=request.user)
        return Response(status=204)

    @extend_schema(request=TakenOwnerSerializer, responses={204: None})
    @action(detail=True, methods=["post"])
    @transaction.atomic
    def revoke(self, request: Request, pk: str) -> Response:
        """The person no longer owns the server. 409 `own_last_right` when the caller would have no right left."""
        server, body = self.get_object(), self.read_body(TakenOwnerSerializer)
        held = HeldRole(Role.VM_OWNER, server=server)
        revoke_role(person=body["person"], held=held, actor=request.user, confirmed=body["confirm"])
        return Response(status=204)


class DiskViewSet(ScopedViewSet):
    queryset = Disk.objects.select_related("server").order_by("created_at", "pk")
    serializer_class = DiskSerializer
    role_actions = {**READ, "create": Action.CREATE}
    filters = {
        "tenant": by_id("tenant"),
        "server": by_id("server"),
        "storage": by_id("storage"),
        "driver": by_text("driver"),
        "incomplete": by_presence("incomplete_since"),
        **numbers("size", "size_bytes"),
        **times("created", "created_at"),
    }
    search_fields = ("path", "server__name")
    ordering_fields = ("created_at", "size_bytes")
    pagination_class = KeysetPaging

    @extend_schema(request=NewDiskSerializer, responses={201: DiskSerializer})
    @transaction.atomic
    def create(self, request: Request) -> Response:
        disk = add_disk(actor=request.user, **self.read_body(NewDiskSerializer))
        return self.answer(disk, status=201)


class MeView(ApiView):
    """Who the caller is and what roles he has."""

    http_method_names = ["get", "head"]

    @extend_schema(responses=MeSerializer, operation_id="me_retrieve")
    def get(self, request: Request) -> Response:
        person = request.user
        shown = {"id": person.pk, "username": person.username, "time_zone": person.time_zone}
        roles = {"roles": role_names(person), "grants": roles_of(person, seen_by=person)}
        return Response(MeSerializer({**shown, **roles}).data)
