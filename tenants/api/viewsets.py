"""The base of all viewsets, and tenants.

A viewset names its queryset, its serializer and which role action each of its DRF actions is; what is not named answers
405. Every object comes through `for_user`, and what was written is read again through it in the same transaction.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from django.db import models, transaction
from django.utils.text import slugify
from rest_framework import mixins, serializers, viewsets
from rest_framework.exceptions import MethodNotAllowed
from rest_framework.renderers import BaseRenderer, JSONRenderer
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from common.errors import NotAllowedError
from tenants.access import get_for_user, may_create
from tenants.api.etags import etag_of, locked
from tenants.api.export import CsvRenderer, csv_response
from tenants.api.filtering import DeclaredFilters, Field, Filter, by_choice, refuse_parameters, times
from tenants.api.guard import GuardedMixin, refuse_beyond_token
from tenants.api.paging import Paging
from tenants.models import Tenant
from tenants.querysets import ScopedQuerySet
from tenants.roles import Action
from tenants.serializers import TenantSerializer

READ: Mapping[str, Action] = {"list": Action.VIEW, "retrieve": Action.VIEW}
_CHANGES = frozenset({"PATCH", "DELETE"})
_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})


class ApiView(GuardedMixin, APIView):
    """For what is no resource. Strict JSON, throttles and the error shape come with it.

    A token needs the scope for reading, for whatever changes something the widest one; or name a `role_action`.
    Query parameters that `parameters` does not name are refused.
    """

    role_action: Action | None = None
    parameters: ClassVar[frozenset[str]] = frozenset()

    def initial(self, request: Request, *args: Any, **options: Any) -> None:
        super().initial(request, *args, **options)
        usual = Action.VIEW if request.method in _SAFE else Action.EDIT
        refuse_beyond_token(request, self.role_action or usual)
        refuse_parameters(request.query_params, known=self.parameters)


class ScopedViewSet(GuardedMixin, mixins.ListModelMixin, mixins.RetrieveModelMixin, viewsets.GenericViewSet[Any]):
    """Three attributes make a read-only resource: `queryset`, `serializer_class`, `role_actions`.

    Lists, by declaration (all that is not declared is refused with 400 and its name):
    - `filters`: name -> a declaration of `tenants.api.filtering` (`by_id`, `by_choice`, `by_boolean`, `by_text`,
      `by_number`, `**times("created", "created_at")`, `**numbers("size", "size_bytes")`), or a plain serializer field,
      whose value goes to `apply_filters`.
    - `search_fields`: text columns for `search=`; only columns that the answer shows to everybody who sees the row.
    - `ordering_fields`: columns for `ordering=`; indexed and not null.
    - `pagination_class`: `Paging` (offset, small sets) or `KeysetPaging` (cursor, whatever grows).
    - CSV comes with every list.

    Changes: `etag_fields` are the model fields that an editor can set. They make the ETag of a detail, and If-Match is
    looked at in `get_object` of PATCH and DELETE, which run in one transaction. `secret_actions`: see GuardedMixin.

    What is no list takes the query parameters that `action_parameters` names for its action, and refuses others.
    """

    queryset: ScopedQuerySet
    role_actions: ClassVar[Mapping[str, Action]] = READ
    filters: ClassVar[Mapping[str, Filter | Field]] = {}
    search_fields: ClassVar[tuple[str, ...]] = ()
    ordering_fields: ClassVar[tuple[str, ...]] = ()
    etag_fields: ClassVar[tuple[str, ...]] = ()
    action_parameters: ClassVar[Mapping[str, frozenset[str]]] = {}
    detail_serializer_class: ClassVar[type[serializers.BaseSerializer[Any]] | None] = None

    pagination_class = Paging
    filter_backends = (DeclaredFilters,)
    http_method_names = ["get", "head", "post", "patch", "delete"]
    lookup_value_regex = "[^/]+"

    def __init_subclass__(cls, **options: Any) -> None:
        """What may carry If-Match compares and changes in one transaction, whoever writes it."""
        super().__init_subclass__(**options)
        for name in ("partial_update", "destroy"):
            if name in cls.__dict__:
                setattr(cls, name, transaction.atomic(cls.__dict__[name]))

    def initial(self, request: Request, *args: Any, **options: Any) -> None:
        super().initial(request, *args, **options)
        if self.action not in self.role_actions:
            raise MethodNotAllowed(request.method or "")
        refuse_beyond_token(request, self.role_action)
        if self.role_action is Action.CREATE and not may_create(request.user, self.queryset.model):
            name = self.queryset.model._meta.verbose_name_plural
            raise NotAllowedError(f"Your role does not create {name}.")
        if self.action != "list":
            refuse_parameters(request.query_params, known=self.action_parameters.get(self.action, frozenset()))
        self.claim_key(request)

    @property
    def role_action(self) -> Action:
        return self.role_actions[self.action]

    def get_renderers(self) -> list[BaseRenderer]:
        return [JSONRenderer(), CsvRenderer()] if self.action == "list" else [JSONRenderer()]

    def get_queryset(self) -> Any:
        return self.queryset.all().for_user(self.request.user, self.role_action)

    def apply_filters(self, queryset: Any, chosen: dict[str, Any]) -> Any:
        """`chosen` holds what was given of the filters that are plain fields."""
        return queryset.filter(**chosen)

    def list(self, request: Request, *args: Any, **options: Any) -> Any:
        if getattr(request.accepted_renderer, "format", "") == "csv":
            self.paginator.check(request)
            name = slugify(self.queryset.model._meta.verbose_name_plural)
            return csv_response(self.filter_queryset(self.get_queryset()), self.get_serializer(), name=name)
        return super().list(request, *args, **options)

    def retrieve(self, request: Request, *args: Any, **options: Any) -> Response:
        found = self.get_object()
        return Response(self.get_serializer(found).data, headers=self._etag_headers(found))

    def get_serializer_class(self) -> Any:
        if self.action != "list" and self.detail_serializer_class is not None:
            return self.detail_serializer_class
        return super().get_serializer_class()

    def get_object(self) -> Any:
        """404 for what the caller cannot see, 403 for what he may not do with what he sees, 412 for what he has not
        seen as it is now."""
        found = get_for_user(
            self.queryset.all(), person=self.request.user, action=self.role_action, pk=self.kwargs[self.lookup_field]
        )
        if self.etag_fields and self.request.method in _CHANGES:
            return locked(found, self.etag_fields, self.request)
        return found

    def read_body(
        self, serializer_class: type[serializers.Serializer[Any]], *, partial: bool = False
    ) -> dict[str, Any]:
        serializer = serializer_class(data=self.request.data, partial=partial, context=self.get_serializer_context())
        serializer.is_valid(raise_exception=True)
        return dict(serializer.validated_data)

    def answer(self, instance: models.Model, *, status: int = 200, location: str | None = None) -> Response:
        """What was written, read again as the caller may see it. Refuses what left his reach; call it in `atomic`."""
        seen = get_for_user(self.queryset.all(), person=self.request.user, action=self.role_action, pk=instance.pk)
        headers = self._etag_headers(seen) | ({"Location": location} if location else {})
        return Response(self.get_serializer(seen).data, status=status, headers=headers)

    def _etag_headers(self, instance: models.Model) -> dict[str, str]:
        return {"ETag": etag_of(instance, self.etag_fields)} if self.etag_fields else {}


class TenantViewSet(ScopedViewSet):
    queryset = Tenant.objects.order_by("name")
    serializer_class = TenantSerializer
    filters = {"status": by_choice("status", Tenant.Status.values), **times("created", "created_at")}
    search_fields = ("name", "title")
    ordering_fields = ("name", "title", "created_at")
