"""The framework of the API: what every resource of `/api/v1/` shares. The other packages import from here."""

from tenants.api.bulk import BulkResultSerializer, BulkSerializer, Verb, bulk_response
from tenants.api.filtering import by_boolean, by_choice, by_id, by_number, by_presence, by_text, numbers, times
from tenants.api.paging import KeysetPaging, Paging
from tenants.api.schema import ProblemAutoSchema
from tenants.api.viewsets import READ, ApiView, ScopedViewSet, TenantViewSet

__all__ = [
    "READ",
    "ApiView",
    "BulkResultSerializer",
    "BulkSerializer",
    "KeysetPaging",
    "Paging",
    "ProblemAutoSchema",
    "ScopedViewSet",
    "TenantViewSet",
    "Verb",
    "bulk_response",
    "by_boolean",
    "by_choice",
    "by_id",
    "by_number",
    "by_presence",
    "by_text",
    "numbers",
    "times",
]
