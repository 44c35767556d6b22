"""The health of the service as JSON and as a page, for SuperAdmins."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils import timezone
from django.views.decorators.http import require_GET
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from backupsite.service_health import DEGRADED, OK, look_at_service, status_of
from common.errors import NotAllowedError
from tenants.api import ApiView
from tenants.models import Person
from tenants.serializers import UtcDateTimeField
from tenants.views import portal_page


class PartSerializer(serializers.Serializer[Any]):
    name = serializers.CharField()
    working = serializers.BooleanField()
    detail = serializers.CharField(allow_blank=True, help_text="What does not work, and what comes of it.")


class HealthSerializer(serializers.Serializer[Any]):
    status = serializers.ChoiceField(choices=[OK, DEGRADED])
    checked_at = UtcDateTimeField()
    parts = PartSerializer(many=True)


class HealthView(ApiView):
    """Which parts of the service work. `degraded`: the API answers and restores stay possible, but something waits."""

    http_method_names = ["get", "head"]

    @extend_schema(responses=HealthSerializer, operation_id="health_retrieve")
    def get(self, request: Request) -> Response:
        return Response(HealthSerializer(_found(request.user)).data)


@require_GET
@portal_page
def health_page(request: HttpRequest) -> HttpResponse:
    return render(request, "backupsite/health.html", _found(request.user))


def _found(person: Person) -> dict[str, Any]:
    if not person.is_superuser:
        raise NotAllowedError("Only a SuperAdmin sees the health of the service.")
    now = timezone.now()
    parts = look_at_service(now=now)
    return {"status": status_of(parts), "checked_at": now, "parts": parts}
