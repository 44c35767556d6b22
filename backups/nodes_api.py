"""Nodes and storages for those who keep them: registering, maintenance, removing, and the sweep of leftovers."""

from __future__ import annotations

from typing import Any

from django.db import transaction
from django.utils import timezone
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response

from agents.models import Node
from agents.serializers import NodeSerializer, StorageSerializer
from backups.leftovers import request_sweep
from backups.nodes import (
    add_storage,
    change_node,
    drain_node,
    refuse_detaching,
    register_node,
    remove_node,
    remove_storage,
    resume_node,
    set_for_drills,
)
from definitions.attachment_api import AttachmentSerializer
from definitions.attachment_api import NodeViewSet as AttachedNodeViewSet
from definitions.attachment_api import StorageViewSet as AttachedStorageViewSet
from definitions.attachments import detach_node, detach_storage
from tenants.roles import Action
from tenants.serializers import BodySerializer, ScopedField


class NodeChangeSerializer(BodySerializer):
    is_backup = serializers.BooleanField(required=False)


class NewNodeSerializer(BodySerializer):
    """The worker that is started with `BACKUPSITE_NODE` set to this name is this node's."""

    name = serializers.SlugField(max_length=64)
    region = serializers.CharField(max_length=16, source="region_code")
    is_backup = serializers.BooleanField(required=False, default=True)


class NewStorageSerializer(BodySerializer):
    """`path` is a directory of the node, or the name of a pool."""

    node = ScopedField(queryset=Node.objects.all())
    name = serializers.SlugField(max_length=64)
    path = serializers.CharField(max_length=500)


class NodeViewSet(AttachedNodeViewSet):
    role_actions = {
        **AttachedNodeViewSet.role_actions,
        "create": Action.CREATE,
        "partial_update": Action.EDIT,
        "destroy": Action.DELETE,
        "drain": Action.EDIT,
        "resume": Action.EDIT,
        "sweep": Action.RUN,
    }
    etag_fields = ("is_backup", "status")

    @extend_schema(request=NewNodeSerializer, responses={201: NodeSerializer})
    @transaction.atomic
    def create(self, request: Request) -> Response:
        return self.answer(register_node(actor=request.user, **self.read_body(NewNodeSerializer)), status=201)

    @extend_schema(request=NodeChangeSerializer, responses=NodeSerializer)
    def partial_update(self, request: Request, pk: str) -> Response:
        node = self.get_object()
        changes = self.read_body(NodeChangeSerializer, partial=True)
        return self.answer(change_node(node=node, changes=changes, actor=request.user))

    def destroy(self, request: Request, pk: str) -> Response:
        """409 `still_needed` while servers, storages, definitions, backups or jobs need it."""
        remove_node(node=self.get_object(), actor=request.user)
        return Response(status=204)

    @extend_schema(request=AttachmentSerializer, responses={204: None})
    @action(detail=True, methods=["post"])
    @transaction.atomic
    def detach(self, request: Request, pk: str) -> Response:
        """With all of its storages; refused while the tenant's servers, definitions or copies are there."""
        node, body = self.get_object(), self.read_body(AttachmentSerializer)
        refuse_detaching(node, tenant=body["tenant"])
        detach_node(node=node, actor=request.user, **body)
        return Response(status=204)

    @extend_schema(request=None, responses=NodeSerializer)
    @action(detail=True, methods=["post"])
    @transaction.atomic
    def drain(self, request: Request, pk: str) -> Response:
        """Into maintenance: what runs goes on to its end, nothing begins, and jobs that wait say so."""
        return self.answer(drain_node(node=self.get_object(), actor=request.user))

    @extend_schema(request=None, responses=NodeSerializer)
    @action(detail=True, methods=["post"])
    @transaction.atomic
    def resume(self, request: Request, pk: str) -> Response:
        """Out of maintenance."""
        return self.answer(resume_node(node=self.get_object(), now=timezone.now(), actor=request.user))

    @extend_schema(request=None, responses={202: None})
    @action(detail=True, methods=["post"])
    @transaction.atomic
    def sweep(self, request: Request, pk: str) -> Response:
        """Have the node remove what lost jobs left on it; the audit says what was removed."""
        request_sweep(node=self.get_object(), actor=request.user)
        return Response(status=202)


class StorageChangeSerializer(BodySerializer):
    for_drills = serializers.BooleanField()


class StorageViewSet(AttachedStorageViewSet):
    role_actions = {
        **AttachedStorageViewSet.role_actions,
        "create": Action.CREATE,
        "partial_update": Action.EDIT,
        "destroy": Action.DELETE,
    }
    etag_fields = ("for_drills",)

    @extend_schema(request=NewStorageSerializer, responses={201: StorageSerializer})
    @transaction.atomic
    def create(self, request: Request) -> Response:
        values: dict[str, Any] = self.read_body(NewStorageSerializer)
        return self.answer(add_storage(actor=request.user, **values), status=201)

    @extend_schema(request=StorageChangeSerializer, responses=StorageSerializer)
    def partial_update(self, request: Request, pk: str) -> Response:
        """Set it aside for restore drills, or not any more."""
        storage = self.get_object()
        changes = self.read_body(StorageChangeSerializer)
        return self.answer(set_for_drills(storage=storage, actor=request.user, **changes))

    def destroy(self, request: Request, pk: str) -> Response:
        """409 `still_needed` while disks, definitions or copies are there. Nothing on the storage is touched."""
        remove_storage(storage=self.get_object(), actor=request.user)
        return Response(status=204)

    @extend_schema(request=AttachmentSerializer, responses={204: None})
    @action(detail=True, methods=["post"])
    @transaction.atomic
    def detach(self, request: Request, pk: str) -> Response:
        """Refused while active definitions read from it, or copies of the tenant lie there."""
        storage, body = self.get_object(), self.read_body(AttachmentSerializer)
        refuse_detaching(storage, tenant=body["tenant"])
        detach_storage(storage=storage, actor=request.user, **body)
        return Response(status=204)
