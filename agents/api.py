"""Nodes, storages, servers, disks, and who the caller is."""

from __future__ import annotations

from django.db import transaction
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from agents.access import role_names
from agents.models import Disk, Node, Server, Storage
from agents.serializers import (
    DiskSerializer,
    MeSerializer,
    NewDiskSerializer,
    NewServerSerializer,
    NodeSerializer,
    ServerSerializer,
    StorageSerializer,
)
from agents.services import add_disk, add_server
from tenants.api import READ, ProblemAutoSchema, ScopedViewSet
from tenants.roles import Action


class NodeViewSet(ScopedViewSet):
    queryset = Node.objects.order_by("name")
    serializer_class = NodeSerializer


class StorageViewSet(ScopedViewSet):
    queryset = Storage.objects.order_by("node__name", "name")
    serializer_class = StorageSerializer
    filters = {"node": serializers.UUIDField()}


class ServerViewSet(ScopedViewSet):
    queryset = Server.objects.order_by("name", "pk")
    serializer_class = ServerSerializer
    role_actions = {**READ, "create": Action.CREATE}
    filters = {"tenant": serializers.UUIDField(), "node": serializers.UUIDField()}

    @extend_schema(request=NewServerSerializer, responses={201: ServerSerializer})
    @transaction.atomic
    def create(self, request: Request) -> Response:
        server = add_server(actor=request.user, **self.read_body(NewServerSerializer))
        return self.answer(server, status=201)


class DiskViewSet(ScopedViewSet):
    queryset = Disk.objects.select_related("server").order_by("server__name", "number", "pk")
    serializer_class = DiskSerializer
    role_actions = {**READ, "create": Action.CREATE}
    filters = {"server": serializers.UUIDField(), "storage": serializers.UUIDField()}

    @extend_schema(request=NewDiskSerializer, responses={201: DiskSerializer})
    @transaction.atomic
    def create(self, request: Request) -> Response:
        disk = add_disk(actor=request.user, **self.read_body(NewDiskSerializer))
        return self.answer(disk, status=201)


class MeView(APIView):
    """Who the caller is and what roles he has."""

    schema = ProblemAutoSchema()
    http_method_names = ["get", "head"]

    @extend_schema(responses=MeSerializer, operation_id="me_retrieve")
    def get(self, request: Request) -> Response:
        person = request.user
        shown = {"id": person.pk, "username": person.username, "time_zone": person.time_zone}
        return Response(MeSerializer({**shown, "roles": role_names(person)}).data)
