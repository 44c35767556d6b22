"""Nodes and storages, with attaching them to tenants."""

from __future__ import annotations

from django.db import transaction
from drf_spectacular.utils import extend_schema
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response

from agents.api import NodeViewSet as PlainNodeViewSet
from agents.api import StorageViewSet as PlainStorageViewSet
from definitions.attachments import attach_node, attach_storage, detach_node, detach_storage
from tenants.models import Tenant
from tenants.roles import Action
from tenants.serializers import BodySerializer, ScopedField


class AttachmentSerializer(BodySerializer):
    tenant = ScopedField(queryset=Tenant.objects.all())


class NodeViewSet(PlainNodeViewSet):
    role_actions = {**PlainNodeViewSet.role_actions, "attach": Action.EDIT, "detach": Action.EDIT}

    @extend_schema(request=AttachmentSerializer, responses={204: None})
    @action(detail=True, methods=["post"])
    @transaction.atomic
    def attach(self, request: Request, pk: str) -> Response:
        """The tenant's servers may stand on the node."""
        attach_node(node=self.get_object(), actor=request.user, **self.read_body(AttachmentSerializer))
        return Response(status=204)

    @extend_schema(request=AttachmentSerializer, responses={204: None})
    @action(detail=True, methods=["post"])
    @transaction.atomic
    def detach(self, request: Request, pk: str) -> Response:
        """The opposite, with all of its storages; refused while the tenant's servers or definitions are there."""
        detach_node(node=self.get_object(), actor=request.user, **self.read_body(AttachmentSerializer))
        return Response(status=204)


class StorageViewSet(PlainStorageViewSet):
    role_actions = {**PlainStorageViewSet.role_actions, "attach": Action.EDIT, "detach": Action.EDIT}

    @extend_schema(request=AttachmentSerializer, responses={204: None})
    @action(detail=True, methods=["post"])
    @transaction.atomic
    def attach(self, request: Request, pk: str) -> Response:
        """The tenant's disks may lie on the storage; its node comes first."""
        attach_storage(storage=self.get_object(), actor=request.user, **self.read_body(AttachmentSerializer))
        return Response(status=204)

    @extend_schema(request=AttachmentSerializer, responses={204: None})
    @action(detail=True, methods=["post"])
    @transaction.atomic
    def detach(self, request: Request, pk: str) -> Response:
        """The opposite; refused while active definitions read from it."""
        detach_storage(storage=self.get_object(), actor=request.user, **self.read_body(AttachmentSerializer))
        return Response(status=204)
