"""Vaults, and ordering tenants: a tenant may come with its first vault."""

from __future__ import annotations

from django.db import transaction
from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response

from tenants.api import READ, ScopedViewSet
from tenants.api import TenantViewSet as ReadOnlyTenantViewSet
from tenants.roles import Action
from tenants.serializers import TenantSerializer
from tenants.services import create_tenant
from vaults.models import Vault
from vaults.serializers import TenantOrderSerializer, VaultSerializer
from vaults.services import place_vault


class TenantViewSet(ReadOnlyTenantViewSet):
    role_actions = {**READ, "create": Action.CREATE}

    @extend_schema(request=TenantOrderSerializer, responses={201: TenantSerializer})
    @transaction.atomic
    def create(self, request: Request) -> Response:
        order = self.read_body(TenantOrderSerializer)
        tenant = create_tenant(title=order["title"], actor=request.user)
        if "region" in order:
            place_vault(tenant=tenant, region_code=order["region"], actor=request.user)
        return self.answer(tenant, status=201)


class VaultViewSet(ScopedViewSet):
    queryset = Vault.objects.select_related("endpoint").order_by("name")
    serializer_class = VaultSerializer
