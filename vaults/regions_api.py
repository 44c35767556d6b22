"""Regions, each with where vaults of its servers must be."""

from __future__ import annotations

from typing import Any

from django.db import transaction
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from common.errors import NotFoundError
from tenants.access import get_for_user
from tenants.api import READ, ScopedViewSet
from tenants.models import Person
from tenants.roles import Action
from tenants.serializers import BodySerializer, ReadSerializer
from vaults.models import Region
from vaults.regions import CODE_MEANING, CODE_PATTERN, add_region, change_region, is_code


class RegionSerializer(ReadSerializer):
    vault_region = serializers.CharField(
        source="affinity.vault_region_id", default=None, read_only=True, allow_null=True
    )

    class Meta:
        model = Region
        fields = ("code", "title", "vault_region")
        read_only_fields = fields


def _region(code: str, person: Person, action: Action) -> Any:
    """Invisible and no code at all are the same: there is no such region."""
    if not is_code(code):
        raise NotFoundError("There is no such region.")
    return get_for_user(Region.objects.all(), person=person, action=action, pk=code)


class RegionField(serializers.CharField):
    """The code of a region that the caller sees; gives the region."""

    def to_internal_value(self, data: Any) -> Any:
        code = super().to_internal_value(data)
        try:
            return _region(code, self.context["request"].user, Action.VIEW)
        except NotFoundError as error:
            error.field = self.field_name
            raise


class RegionChangeSerializer(BodySerializer):
    """`vault_region` is always another region; null: servers of this one get no vault."""

    title = serializers.CharField(max_length=100, required=False, allow_blank=True)
    vault_region = RegionField(required=False, allow_null=True)


class NewRegionSerializer(RegionChangeSerializer):
    code = serializers.RegexField(CODE_PATTERN, max_length=16, error_messages={"invalid": CODE_MEANING})


class RegionViewSet(ScopedViewSet):
    """A tenant sees the regions of its servers and vaults; SuperAdmins edit the table."""

    queryset = Region.objects.select_related("affinity").order_by("code")
    serializer_class = RegionSerializer
    role_actions = {**READ, "create": Action.CREATE, "partial_update": Action.EDIT}
    search_fields = ("code", "title")
    ordering_fields = ("code",)

    def get_object(self) -> Any:
        return _region(self.kwargs["pk"], self.request.user, self.role_action)

    @extend_schema(request=NewRegionSerializer, responses={201: RegionSerializer})
    @transaction.atomic
    def create(self, request: Request) -> Response:
        body = {"title": "", "vault_region": None, **self.read_body(NewRegionSerializer)}
        region = add_region(actor=request.user, **body)
        return self.answer(region, status=201)

    @extend_schema(request=RegionChangeSerializer, responses=RegionSerializer)
    def partial_update(self, request: Request, pk: str) -> Response:
        region = self.get_object()
        changes = self.read_body(RegionChangeSerializer, partial=True)
        change_region(region=region, changes=changes, actor=request.user)
        return self.answer(region)
