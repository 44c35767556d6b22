"""The base of all viewsets, and tenants.

A viewset names its queryset, its serializer and which role action each of its DRF actions is; what is not named answers
405. Every object comes through `for_user`, and what was written is read again through it in the same transaction.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from django.db import models
from drf_spectacular.openapi import AutoSchema
from drf_spectacular.utils import OpenApiParameter
from rest_framework import mixins, serializers, viewsets
from rest_framework.exceptions import MethodNotAllowed, ValidationError
from rest_framework.filters import BaseFilterBackend
from rest_framework.pagination import LimitOffsetPagination
from rest_framework.request import Request
from rest_framework.response import Response

from common.errors import NotAllowedError
from tenants.access import get_for_user, may_create
from tenants.models import Tenant
from tenants.querysets import ScopedQuerySet
from tenants.roles import Action
from tenants.serializers import ProblemSerializer, TenantSerializer

READ: Mapping[str, Action] = {"list": Action.VIEW, "retrieve": Action.VIEW}
PAGING_PARAMETERS = frozenset({"limit", "offset"})


class Paging(LimitOffsetPagination):
    max_limit = 500


class ProblemAutoSchema(AutoSchema):
    """Adds the one error shape to every operation of the OpenAPI document."""

    def get_operation(self, *args: Any, **options: Any) -> Any:
        operation = super().get_operation(*args, **options)
        if operation is not None:
            problem = self.resolve_serializer(ProblemSerializer, "response").ref
            content = {"application/problem+json": {"schema": problem}}
            operation["responses"]["default"] = {"description": "Any error.", "content": content}
        return operation


class EqualityFilter(BaseFilterBackend):
    """Query parameters that the viewset declares in `filters`, compared for equality. An unknown one is refused."""

    def filter_queryset(self, request: Request, queryset: Any, view: Any) -> Any:
        given = request.query_params
        unknown = sorted(set(given) - set(view.filters) - PAGING_PARAMETERS)
        if unknown:
            raise ValidationError({name: ["There is no such filter."] for name in unknown}, code="unknown_filter")
        chosen = {}
        for name, field in view.filters.items():
            if name in given:
                chosen[name] = _checked(name, field, given[name])
        return view.apply_filters(queryset, chosen)

    def get_schema_operation_parameters(self, view: Any) -> list[dict[str, Any]]:
        return [
            {"name": name, "in": OpenApiParameter.QUERY, "required": False, "schema": _schema_of(field)}
            for name, field in view.filters.items()
        ]


def _checked(name: str, field: serializers.Field[Any, Any, Any, Any], value: str) -> Any:
    try:
        return field.run_validation(value)
    except ValidationError as error:
        raise ValidationError({name: error.detail}) from error


def _schema_of(field: serializers.Field[Any, Any, Any, Any]) -> dict[str, Any]:
    if isinstance(field, serializers.ChoiceField):
        return {"type": "string", "enum": list(field.choices)}
    if isinstance(field, serializers.BooleanField):
        return {"type": "boolean"}
    return {"type": "string", "format": "uuid"}


class ScopedViewSet(mixins.ListModelMixin, mixins.RetrieveModelMixin, viewsets.GenericViewSet[Any]):
    """Three attributes make a read-only resource: `queryset`, `serializer_class`, `role_actions`."""

    queryset: ScopedQuerySet
    role_actions: ClassVar[Mapping[str, Action]] = READ
    filters: ClassVar[Mapping[str, serializers.Field[Any, Any, Any, Any]]] = {}
    detail_serializer_class: ClassVar[type[serializers.BaseSerializer[Any]] | None] = None

    schema = ProblemAutoSchema()
    pagination_class = Paging
    filter_backends = (EqualityFilter,)
    http_method_names = ["get", "head", "post", "patch", "delete"]
    lookup_value_regex = "[^/]+"

    def initial(self, request: Request, *args: Any, **options: Any) -> None:
        super().initial(request, *args, **options)
        if self.action not in self.role_actions:
            raise MethodNotAllowed(request.method or "")
        if self.role_action is Action.CREATE and not may_create(request.user, self.queryset.model):
            name = self.queryset.model._meta.verbose_name_plural
            raise NotAllowedError(f"Your role does not create {name}.")

    @property
    def role_action(self) -> Action:
        return self.role_actions[self.action]

    def get_queryset(self) -> Any:
        return self.queryset.all().for_user(self.request.user, self.role_action)

    def apply_filters(self, queryset: Any, chosen: dict[str, Any]) -> Any:
        return queryset.filter(**chosen)

    def get_serializer_class(self) -> Any:
        if self.action != "list" and self.detail_serializer_class is not None:
            return self.detail_serializer_class
        return super().get_serializer_class()

    def get_object(self) -> Any:
        """404 for what the caller cannot see, 403 for what he may not do with what he sees."""
        return get_for_user(
            self.queryset.all(), person=self.request.user, action=self.role_action, pk=self.kwargs[self.lookup_field]
        )

    def read_body(
        self, serializer_class: type[serializers.Serializer[Any]], *, partial: bool = False
    ) -> dict[str, Any]:
        serializer = serializer_class(data=self.request.data, partial=partial, context=self.get_serializer_context())
        serializer.is_valid(raise_exception=True)
        return dict(serializer.validated_data)

    def answer(self, instance: models.Model, *, status: int = 200, location: str | None = None) -> Response:
        """What was written, read again as the caller may see it. Refuses what left his reach; call it in `atomic`."""
        seen = get_for_user(self.queryset.all(), person=self.request.user, action=self.role_action, pk=instance.pk)
        headers = {"Location": location} if location else None
        return Response(self.get_serializer(seen).data, status=status, headers=headers)


class TenantViewSet(ScopedViewSet):
    queryset = Tenant.objects.order_by("name")
    serializer_class = TenantSerializer
