"""Backup definitions and the preview of a schedule as JSON."""

from __future__ import annotations

from typing import Any

from rest_framework import serializers

from agents.models import Disk, Node, Storage
from definitions.excludes import LONGEST_EXCLUDES
from definitions.hour_moves import MOST_CHOSEN
from definitions.models import Definition
from definitions.names import check_name
from definitions.rule_fields import RULE_FIELDS
from definitions.services import Fate
from definitions.simulator import LONGEST_DAYS
from tenants.roles import Action
from tenants.serializers import BodySerializer, LocalTimeField, ReadSerializer, ScopedField, UtcDateTimeField
from tenants.services import why_waiting


class DefinitionSerializer(ReadSerializer):
    server = serializers.UUIDField(source="disk.server_id", read_only=True)
    server_name = serializers.CharField(source="disk.server.name", read_only=True)
    policy_name = serializers.CharField(source="policy.name", read_only=True, default=None)
    restricted = serializers.BooleanField(
        source="policy.restricted", read_only=True, default=False, help_text="Whether only the provider changes it."
    )
    waiting_reason = serializers.SerializerMethodField(
        help_text="Why nothing is started though it is active; empty when nothing stands in the way."
    )

    class Meta:
        model = Definition
        fields = (
            "id",
            "name",
            "tenant",
            "server",
            "server_name",
            "disk",
            "vault",
            "type",
            "cron",
            "time_zone",
            *RULE_FIELDS,
            "immutable_days",
            "backup_node",
            "storage",
            "compression",
            "freeze_filesystem",
            "excludes",
            "rpo_hours",
            "policy",
            "policy_name",
            "restricted",
            "retired_at",
            "bandwidth_limit",
            "active",
            "description",
            "next_run_at",
            "waiting_reason",
            "created_at",
            "changed_at",
        )
        read_only_fields = fields

    def get_waiting_reason(self, definition: Definition) -> str:
        return why_waiting(definition.tenant.status, definition.tenant.status_reason)


def _number(least: int, most: int, help_text: str = "", *, allow_null: bool = False) -> Any:
    return serializers.IntegerField(
        required=False, allow_null=allow_null, min_value=least, max_value=most, help_text=help_text
    )


class RulesSerializer(BodySerializer):
    """The retention rules, of a definition and of a policy. 0: does not ask for any backup; all 0: all are kept."""

    retention_count = _number(0, 65536, "Keep the newest so many.")
    retention_days = _number(0, 3650, "Keep all of so many days.")
    keep_hourly = _number(0, 10000, "Keep the newest of each of so many hours.")
    keep_daily = _number(0, 3650, "Keep the newest of each of so many days.")
    keep_weekly = _number(0, 520, "Keep the newest of each of so many weeks.")
    keep_monthly = _number(0, 120, "Keep the newest of each of so many months.")
    keep_yearly = _number(0, 10, "Keep the newest of each of so many years.")


class DefinitionChangeSerializer(RulesSerializer):
    """Name and disk stay for life; the rest may change."""

    cron = serializers.CharField(required=False)
    time_zone = serializers.CharField(required=False, help_text="IANA name. New definitions take the caller's own.")
    rpo_hours = _number(
        1, 87600, "How old the last good backup may be; null: two intervals of the schedule.", allow_null=True
    )
    compression = serializers.ChoiceField(Definition.Compression.choices, required=False, help_text="Of File backups.")
    freeze_filesystem = serializers.BooleanField(required=False)
    excludes = serializers.CharField(
        required=False,
        allow_blank=True,
        trim_whitespace=False,
        max_length=LONGEST_EXCLUDES,
        help_text="Of a file tree: what is left out, as the lines of a .gitignore file at its root.",
    )
    immutable_days = serializers.IntegerField(
        required=False,
        allow_null=True,
        help_text="How long nobody can remove a backup, if longer than the vault's own days. Applies to new backups.",
    )
    bandwidth_limit = serializers.IntegerField(
        required=False, allow_null=True, help_text="Bytes per second that a backup may send; null: no limit."
    )
    active = serializers.BooleanField(required=False)
    description = serializers.CharField(required=False, allow_blank=True, max_length=128)
    run_at_once = serializers.BooleanField(required=False, help_text="The next backup is due now.")


class NewDefinitionSerializer(DefinitionChangeSerializer):
    disk = ScopedField(queryset=Disk.objects.select_related("server"))
    type = serializers.ChoiceField(
        Definition.Type.choices, required=False, help_text="vault, or file: a copy on a storage. It stays for life."
    )
    storage = ScopedField(
        queryset=Storage.objects.select_related("node"),
        required=False,
        allow_null=True,
        help_text="Of dataset and file: where the backups lie. It stays for life.",
    )
    backup_node = ScopedField(
        queryset=Node.objects.all(), required=False, allow_null=True, help_text="Left out: the storage's node."
    )
    name = serializers.CharField(max_length=16, validators=[check_name])
    cron = serializers.CharField(
        required=False, help_text="May be left out with the names hourly, daily, weekly and monthly."
    )


class ScheduleSerializer(BodySerializer):
    cron = serializers.CharField()
    time_zone = serializers.CharField(required=False)


class RunSerializer(serializers.Serializer[Any]):
    utc = UtcDateTimeField(source="at")
    local = serializers.SerializerMethodField()
    utc_offset = serializers.SerializerMethodField()
    abbreviation = serializers.SerializerMethodField()
    note = serializers.CharField(help_text="What a change of the clock does to it; mostly empty.")

    def get_local(self, run: Any) -> str:
        return str(run.at.isoformat())

    def get_utc_offset(self, run: Any) -> str:
        return str(run.at.isoformat()[-6:])

    def get_abbreviation(self, run: Any) -> str:
        return str(run.at.tzname())


class SimulationSerializer(ScheduleSerializer):
    """The rules as of a definition, and what the disk is like."""

    retention_count = serializers.IntegerField(min_value=0, max_value=65536, default=0)
    retention_days = serializers.IntegerField(min_value=0, max_value=3650, default=0)
    keep_hourly = serializers.IntegerField(min_value=0, max_value=10000, default=0)
    keep_daily = serializers.IntegerField(min_value=0, max_value=10000, default=0)
    keep_weekly = serializers.IntegerField(min_value=0, max_value=10000, default=0)
    keep_monthly = serializers.IntegerField(min_value=0, max_value=10000, default=0)
    keep_yearly = serializers.IntegerField(min_value=0, max_value=10000, default=0)
    lock_days = serializers.IntegerField(min_value=0, max_value=3650, default=14)
    size_bytes = serializers.IntegerField(min_value=1, max_value=1 << 60)
    change_bytes = serializers.IntegerField(min_value=0, max_value=1 << 60, help_text="Changed between two runs.")
    days = serializers.IntegerField(min_value=1, max_value=LONGEST_DAYS, default=60)


class KeptSerializer(serializers.Serializer[Any]):
    at = UtcDateTimeField()
    reasons = serializers.ListField(child=serializers.CharField())


class SimulatedDaySerializer(serializers.Serializer[Any]):
    day = serializers.DateField()
    kept = KeptSerializer(many=True)
    kept_bytes = serializers.IntegerField()
    tail_bytes = serializers.IntegerField(help_text="Of backups that were removed and are still locked.")
    tail_count = serializers.IntegerField()


class SchedulePreviewSerializer(serializers.Serializer[Any]):
    cron = serializers.CharField()
    time_zone = serializers.CharField()
    explanation = serializers.CharField()
    runs = RunSerializer(many=True)


class ChoiceSerializer(serializers.Serializer[Any]):
    value = serializers.CharField()
    label = serializers.CharField()
    why_not = serializers.CharField(help_text="Why it cannot be chosen; empty when it can.")


class ChoicesSerializer(serializers.Serializer[Any]):
    type = ChoiceSerializer(many=True)
    backup_node = ChoiceSerializer(many=True)
    storage = ChoiceSerializer(many=True)
    compression = ChoiceSerializer(many=True)
    freeze_filesystem = ChoiceSerializer(many=True)


class ChoicesQuerySerializer(BodySerializer):
    disk = ScopedField(queryset=Disk.objects.select_related("server"))


class OverviewSerializer(serializers.Serializer[Any]):
    """A definition as a row of the overview: with its node, its backups, and how well it protects."""

    id = serializers.UUIDField(source="definition.pk")
    name = serializers.CharField(source="definition.name")
    server_name = serializers.CharField(source="definition.disk.server.name")
    tenant_name = serializers.CharField(source="definition.tenant.name")
    disk_number = serializers.IntegerField(source="definition.disk.number")
    node = serializers.CharField(help_text="Empty for somebody who does not see nodes.")
    type = serializers.CharField(source="definition.type")
    cron = serializers.CharField(source="definition.cron")
    time_zone = serializers.CharField(source="definition.time_zone")
    active = serializers.BooleanField(source="definition.active")
    retention_count = serializers.IntegerField(source="definition.retention_count")
    retention_days = serializers.IntegerField(source="definition.retention_days")
    description = serializers.CharField(source="definition.description")
    next_run_at = UtcDateTimeField(source="definition.next_run_at")
    backups = serializers.IntegerField(help_text="How many it has in the catalogue.")
    last_good_at = UtcDateTimeField(source="facts.last_good_at", allow_null=True)
    last_verified_at = UtcDateTimeField(source="facts.last_verified_at", allow_null=True)
    locked_until = UtcDateTimeField(
        source="facts.locked_until",
        allow_null=True,
        help_text="The end of the last good backup's lock, as the vault has it.",
    )
    held_because = serializers.CharField(source="facts.held_because")
    state = serializers.CharField(source="standing.state")
    sentence = serializers.CharField(source="standing.sentence")


class HeatRowSerializer(serializers.Serializer[Any]):
    node = serializers.CharField(source="node.name")
    hours = serializers.ListField(
        child=serializers.FloatField(),
        source="planned",
        help_text="Planned bytes per second in each hour of the UTC day.",
    )
    actual = serializers.ListField(
        child=serializers.FloatField(), help_text="The same as jobs of the last seven days had it, their mean."
    )


class PileUpSerializer(serializers.Serializer[Any]):
    node = serializers.CharField()
    hour = serializers.IntegerField()
    times_mean = serializers.FloatField()
    definitions = serializers.ListField(child=serializers.CharField(), source="keys")
    sentence = serializers.CharField()


class HeatMapQuerySerializer(BodySerializer):
    page = serializers.IntegerField(required=False, min_value=1, default=1, help_text="Of the nodes, by name.")
    node = ScopedField(queryset=Node.objects.all(), required=False, help_text="This one alone.")


class HeatMapSerializer(serializers.Serializer[Any]):
    on = serializers.DateField()
    pages = serializers.IntegerField(help_text="How many pages of nodes there are.")
    counted_at = UtcDateTimeField(allow_null=True, help_text="Null: now. What is much is counted every 15 minutes.")
    rows = HeatRowSerializer(many=True)
    advice = PileUpSerializer(many=True)


class SpreadSerializer(BodySerializer):
    """All that follows a policy, by a SuperAdmin; or with `node` and `hour` what piles up there."""

    apply = serializers.BooleanField(default=False, help_text="Without it only what would change is answered.")
    node = ScopedField(queryset=Node.objects.all(), required=False)
    hour = serializers.IntegerField(required=False, min_value=0, max_value=23, help_text="Of the UTC day.")
    window_start = LocalTimeField(required=False, help_text="Local time of each definition that follows no policy.")
    window_end = LocalTimeField(required=False, help_text="Not later than the start: of the next day.")

    def validate(self, attributes: dict[str, Any]) -> dict[str, Any]:
        if ("node" in attributes) != ("hour" in attributes):
            raise serializers.ValidationError(
                {"hour": ["It goes with the node, and the node with it."]}, code="required"
            )
        return attributes


class MoveSerializer(serializers.Serializer[Any]):
    definition = serializers.CharField()
    before = serializers.CharField()
    after = serializers.CharField()


class SpreadResultSerializer(serializers.Serializer[Any]):
    spread = serializers.UUIDField(allow_null=True, help_text="With it the change is taken back; null for a preview.")
    moves = MoveSerializer(many=True)


class MoveToHourSerializer(BodySerializer):
    """Of these definitions, or of all that one may move of those that start on the node in the hour `from_hour`."""

    hour = serializers.IntegerField(min_value=0, max_value=23, help_text="Of the UTC day, in which they are to start.")
    definitions = serializers.ListField(
        source="chosen", child=serializers.UUIDField(), required=False, min_length=1, max_length=MOST_CHOSEN
    )
    node = ScopedField(queryset=Node.objects.all(), required=False)
    from_hour = serializers.IntegerField(required=False, min_value=0, max_value=23, help_text="Of the UTC day.")
    preview = serializers.BooleanField(default=False, help_text="Only what would move, and the load, is answered.")

    def validate(self, attributes: dict[str, Any]) -> dict[str, Any]:
        pile = {"node", "from_hour"} & set(attributes)
        if "chosen" in attributes and pile:
            raise serializers.ValidationError({"definitions": ["Name these, or a node and an hour."]}, code="invalid")
        if "chosen" not in attributes and len(pile) < 2:
            raise serializers.ValidationError(
                {"definitions": ["Name definitions, or a node and the hour they start in now."]}, code="required"
            )
        return attributes


class HourChangeSerializer(serializers.Serializer[Any]):
    """Planned bytes per second in each hour of the UTC day, by the definitions that the caller sees."""

    node = serializers.CharField(source="node.name")
    before = serializers.ListField(child=serializers.FloatField())
    after = serializers.ListField(child=serializers.FloatField())


class HourMoveSerializer(SpreadResultSerializer):
    loads = HourChangeSerializer(many=True, help_text="Of the nodes of what moves.")


class UndoSpreadSerializer(BodySerializer):
    spread = serializers.UUIDField()


class DefinitionFateSerializer(BodySerializer):
    """What becomes of the backups of a definition that is deleted."""

    backups = serializers.ChoiceField(choices=[fate.value for fate in Fate], default=Fate.KEEP.value)
    days = serializers.IntegerField(required=False, help_text="With keep_until_age.")
    adopter = ScopedField(
        queryset=Definition.objects.all(),
        action=Action.EDIT,
        required=False,
        help_text="With adopt: another definition of the same disk.",
    )
    confirmation = serializers.CharField(
        required=False, allow_blank=True, help_text="With delete: the definition's name."
    )


class PartingSerializer(serializers.Serializer[Any]):
    """What was deleted with the definition. What is locked stays in the vault until its lock ends."""

    backups = serializers.IntegerField()
    locked = serializers.IntegerField(help_text="How many of them nobody can delete yet.")
    locked_until = UtcDateTimeField(
        allow_null=True, help_text="The end of the last of their locks; null: none is locked."
    )
