"""Budgets: what the operator allows at once. SuperAdmins only."""

from __future__ import annotations

from typing import Any, ClassVar

from django.db import transaction
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from agents.models import Node
from backups.budgeting import change_budget, create_budget, delete_budget
from backups.models import Budget
from tenants.api import READ, ScopedViewSet, by_choice, by_id
from tenants.models import Tenant
from tenants.roles import Action
from tenants.serializers import BodySerializer, LocalTimeField, ReadSerializer, ScopedField
from vaults.models import Vault
from vaults.regions_api import RegionField

_LARGEST = 2**31 - 1


class BudgetSerializer(ReadSerializer):
    target = serializers.CharField(read_only=True, help_text="In words: `node n1`, `each tenant`, `link RBX-GRA`.")

    class Meta:
        model = Budget
        fields = (
            "id",
            "kind",
            "target",
            "node",
            "vault",
            "tenant",
            "region",
            "vault_region",
            "most_jobs",
            "bytes_per_second",
            "from_time",
            "until_time",
            "time_zone",
            "created_at",
            "changed_at",
        )
        read_only_fields = fields


class BudgetChangeSerializer(BodySerializer):
    """At least one of `most_jobs` and `bytes_per_second`; the window is of each day, in `time_zone`."""

    most_jobs = serializers.IntegerField(min_value=0, max_value=_LARGEST, required=False, allow_null=True)
    bytes_per_second = serializers.IntegerField(min_value=65536, max_value=2**62, required=False, allow_null=True)
    from_time = LocalTimeField(required=False, allow_null=True)
    until_time = LocalTimeField(required=False, allow_null=True)
    time_zone = serializers.CharField(max_length=64, required=False)


class NewBudgetSerializer(BudgetChangeSerializer):
    """Without a target it is for each of its kind that has none of its own."""

    kind = serializers.ChoiceField(choices=Budget.Kind.choices)
    node = ScopedField(queryset=Node.objects.all(), required=False, allow_null=True)
    vault = ScopedField(queryset=Vault.objects.all(), required=False, allow_null=True)
    tenant = ScopedField(queryset=Tenant.objects.all(), required=False, allow_null=True)
    region = RegionField(required=False, allow_null=True)
    vault_region = RegionField(required=False, allow_null=True)


class BudgetViewSet(ScopedViewSet):
    """How many jobs and bytes per second at once, for nodes, vaults, tenants, links and the fleet."""

    queryset = Budget.objects.select_related("node", "vault", "tenant").order_by("created_at", "pk")
    serializer_class = BudgetSerializer
    role_actions = {
        **READ,
        "create": Action.CREATE,
        "partial_update": Action.EDIT,
        "destroy": Action.DELETE,
    }
    filters: ClassVar[dict[str, Any]] = {
        "kind": by_choice("kind", Budget.Kind.values),
        "node": by_id("node", none=True),
        "vault": by_id("vault", none=True),
        "tenant": by_id("tenant", none=True),
    }
    etag_fields = ("most_jobs", "bytes_per_second", "from_time", "until_time", "time_zone")

    @extend_schema(request=NewBudgetSerializer, responses={201: BudgetSerializer})
    @transaction.atomic
    def create(self, request: Request) -> Response:
        values = self.read_body(NewBudgetSerializer)
        budget = create_budget(kind=values.pop("kind"), values=values, actor=request.user)
        return self.answer(budget, status=201)

    @extend_schema(request=BudgetChangeSerializer, responses=BudgetSerializer)
    def partial_update(self, request: Request, pk: str) -> Response:
        budget = self.get_object()
        return self.answer(
            change_budget(budget=budget, changes=self.read_body(BudgetChangeSerializer), actor=request.user)
        )

    def destroy(self, request: Request, pk: str) -> Response:
        delete_budget(budget=self.get_object(), actor=request.user)
        return Response(status=204)
