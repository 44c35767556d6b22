"""The figures of the first page as JSON. Of what the person sees; sizes in bytes, days in the person's zone."""

from __future__ import annotations

from typing import Any

from django.utils import timezone
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from backups.days import SHOWN_DAYS, days_of
from backups.figures import totals_of
from backups.lock_tails import tail_of
from backups.placement import placements_of
from backups.server_states import ServerState
from tenants.api import ApiView
from tenants.serializers import UtcDateTimeField

_COUNTED = "When it was counted, where there is too much to count it for each request; null: now."


class ServerStatesSerializer(serializers.Serializer[Any]):
    """Each server is in one state, the worst of its active definitions'. Null: not counted yet."""

    def get_fields(self) -> dict[str, Any]:
        return {str(state): serializers.IntegerField(allow_null=True) for state in ServerState}


class PlacementSerializer(serializers.Serializer[Any]):
    region = serializers.CharField(source="region.code", default=None, allow_null=True, help_text="Of the vaults.")
    server_regions = serializers.SerializerMethodField()
    server_count = serializers.IntegerField()
    vault_count = serializers.IntegerField()
    stored_bytes = serializers.IntegerField(allow_null=True, help_text="As the vaults were looked over last.")
    alarm_count = serializers.IntegerField(help_text="Vaults with an alarm that needs a person.")

    def get_server_regions(self, placement: Any) -> list[str]:
        return [region.code for region in placement.sources]


class FleetOverviewSerializer(serializers.Serializer[Any]):
    server_count = serializers.IntegerField()
    servers = ServerStatesSerializer(source="states")
    definition_count = serializers.IntegerField(allow_null=True)
    good_backup_count = serializers.IntegerField(source="good_count", allow_null=True)
    stored_bytes = serializers.IntegerField(allow_null=True)
    counted_at = UtcDateTimeField(allow_null=True, help_text=_COUNTED)
    places = PlacementSerializer(many=True, help_text="Vaults by region.")


class DaySerializer(serializers.Serializer[Any]):
    day = serializers.DateField()
    good_count = serializers.IntegerField(help_text="Backups asked for on the day that became good.")
    failed_count = serializers.IntegerField(help_text="That failed, and were not tried again.")
    missed_count = serializers.IntegerField(help_text="Times of the schedule of then for which no backup was begun.")
    held_count = serializers.IntegerField(help_text="Such times at which a pause, or what else holds, kept it.")
    total_bytes = serializers.IntegerField(allow_null=True, help_text="Stored at its end; null: not counted.")


class LockEndSerializer(serializers.Serializer[Any]):
    day = serializers.DateField(help_text="More than two months ahead: the last of its month.")
    ending_bytes = serializers.IntegerField()


class DaysSerializer(serializers.Serializer[Any]):
    days = DaySerializer(many=True, help_text=f"The last {SHOWN_DAYS}, the oldest first.")
    time_zone = serializers.CharField(help_text="Of these days: the caller's; UTC where nothing was kept for it yet.")
    counted_at = UtcDateTimeField(allow_null=True, help_text=_COUNTED)
    lock_ends = LockEndSerializer(many=True, allow_null=True, help_text="What ends to be locked, by day (UTC).")
    locks_counted_at = UtcDateTimeField(allow_null=True, help_text=_COUNTED)


class OverviewView(ApiView):
    """How servers are protected, what is stored for them, and where."""

    http_method_names = ["get", "head"]

    @extend_schema(responses=FleetOverviewSerializer, operation_id="overview_retrieve")
    def get(self, request: Request) -> Response:
        totals = totals_of(request.user)
        shown = {name: getattr(totals, name) for name in type(totals).__dataclass_fields__}
        shown["states"] = {str(state): totals.states.get(str(state)) for state in ServerState}
        return Response(FleetOverviewSerializer({**shown, "places": placements_of(request.user)}).data)


class OverviewDaysView(ApiView):
    """How backups went day by day, what they took up, and until when it is locked."""

    http_method_names = ["get", "head"]

    @extend_schema(responses=DaysSerializer, operation_id="overview_days_retrieve")
    def get(self, request: Request) -> Response:
        now = timezone.now()
        found, tail = days_of(request.user, now=now), tail_of(request.user, now=now)
        ends = None if tail.ends is None else [{"day": day, "ending_bytes": size} for day, size in tail.ends]
        shown = {"days": found.days, "time_zone": found.time_zone, "counted_at": found.counted_at, "lock_ends": ends}
        return Response(DaysSerializer({**shown, "locks_counted_at": tail.counted_at}).data)
