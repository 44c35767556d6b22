"""The filters of the lists of servers, definitions, backups and jobs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from django import forms
from django.db.models import Q

from agents.choosing import NODES
from agents.models import Node, Server
from backups.models import DefinitionStanding
from backups.server_states import ServerState, in_state
from backups.states import BACKUP_STATUS_CHOICES, HEALTH_CHOICES, JOB_KIND_CHOICES, JOB_STATE_CHOICES
from common.errors import NotFoundError
from definitions.honest_states import State
from definitions.models import Definition
from tenants.access import get_for_user
from tenants.choosing import TENANTS, ScopedChoiceField
from tenants.list_fields import (
    DayField,
    MomentField,
    NamePartField,
    SizeField,
    check_field,
    choice_field,
    named,
    within_days,
)
from tenants.listing import ListForm
from tenants.models import Tenant
from tenants.roles import Action
from vaults.models import Region


class IdField(forms.CharField):
    """What a link from elsewhere narrows the list to; 404 for what the person does not see."""

    def __init__(self) -> None:
        super().__init__(required=False, widget=forms.HiddenInput())

    def clean(self, value: Any) -> UUID | None:
        text = super().clean(value)
        try:
            return UUID(text) if text else None
        except ValueError as error:
            raise NotFoundError("There is nothing with this id.") from error


class PlacedForm(ListForm):
    """Of whom, and on which node: for who administers tenants."""

    tenant = ScopedChoiceField(TENANTS, label="Tenant", required=False)
    node = ScopedChoiceField(NODES, label="Node", required=False)
    of_administrators = ("tenant", "node")

    def offer(self) -> None:
        for name, rows in (("tenant", Tenant.objects), ("node", Node.objects)):
            if name in self.fields:
                self.fields[name].offer(rows.for_user(self.person))


class ServerFilters(PlacedForm):
    q = NamePartField("Server")
    state = choice_field("State", [(str(state), str(state)) for state in ServerState], every="Any state")
    kind = choice_field("Kind", [("virtual", "virtual"), ("metal", "bare metal")], every="Any kind")
    region = choice_field("Region", [], every="Any region")
    field_order = ("q", "state", "tenant", "node", "kind", "region")
    more = ("node", "kind", "region")
    of_administrators = ("tenant", "node", "region")

    def offer(self) -> None:
        super().offer()
        if "region" in self.fields:
            codes = Region.objects.for_user(self.person).order_by("code").values_list("code", flat=True)
            self.fields["region"].choices = [("", "Any region"), *((code, code) for code in codes)]

    def narrow(self, servers: Any, wanted: Mapping[str, Any]) -> Any:
        servers = servers.filter(**{name: wanted[name] for name in ("tenant", "node", "region") if name in wanted})
        if "kind" in wanted:
            servers = servers.filter(node__isnull=wanted["kind"] == "metal")
        if "state" in wanted:
            servers = in_state(servers, wanted["state"])
        return self.sought(named(servers, "name", wanted["q"])) if "q" in wanted else servers


_ACTIVE = [("active", "active"), ("inactive", "inactive")]
_FOUND = [(str(state), str(state)) for state in State if state != State.INACTIVE]


class DefinitionFilters(PlacedForm):
    q = forms.CharField(
        label="Name or server",
        required=False,
        max_length=128,
        widget=forms.TextInput(attrs={"class": "form-control", "type": "search", "placeholder": "Name or server"}),
    )
    state = choice_field("State", [*_ACTIVE, *_FOUND], every="Any state")
    type = choice_field("Type", Definition.Type.choices, every="Any type")
    field_order = ("q", "state", "tenant", "node", "type")
    more = ("node", "type")

    def narrow(self, definitions: Any, wanted: Mapping[str, Any]) -> Any:
        plain = {"tenant": "tenant", "node": "disk__server__node", "type": "type"}
        definitions = definitions.filter(**{plain[name]: wanted[name] for name in plain if name in wanted})
        if "state" in wanted:
            definitions = definitions.filter(_definition_is(wanted["state"]))
        return _definitions_named(definitions, wanted["q"]) if "q" in wanted else definitions


def _definition_is(state: str) -> Q:
    if state in {"active", "inactive"}:
        return Q(active=state == "active")
    if state == State.WAITING:
        # Nobody has looked at it yet.
        return Q(active=True) & (Q(standing__state=state) | Q(standing=None))
    return Q(active=True, pk__in=DefinitionStanding.objects.filter(state=state).values("definition"))


def _definitions_named(definitions: Any, searched: str) -> Any:
    """Those of servers that are called so; where there are none, those that are called so themselves.

    Not both at once: an OR over two tables reads both from beginning to end.
    """
    of_servers = definitions.filter(disk__server__name__icontains=searched)
    return of_servers if of_servers.exists() else definitions.filter(name__icontains=searched)


class BackupFilters(PlacedForm):
    server = IdField()
    definition = IdField()
    created_after = MomentField()
    created_before = MomentField()
    q = NamePartField("Server")
    gone = check_field("its server is gone")
    status = choice_field("Status", BACKUP_STATUS_CHOICES, every="Any status")
    health = choice_field("Health", HEALTH_CHOICES, every="Any health")
    type = choice_field("Type", Definition.Type.choices, every="Any type")
    size_from = SizeField("Size from")
    size_to = SizeField("Size to")
    since = DayField("Made from")
    until = DayField("Made to")
    removed = check_field("with deleted ones")
    field_order = (
        *("q", "status", "since", "until", "tenant", "node", "type", "health"),
        *("size_from", "size_to", "gone", "removed"),
    )
    more = ("tenant", "node", "type", "health", "size_from", "size_to", "gone", "removed")
    of_one = ("server", "definition")

    def clean(self) -> dict[str, Any]:
        wanted = super().clean() or {}
        for low, high, words in (("size_from", "size_to", "size"), ("since", "until", "day")):
            if wanted.get(low) and wanted.get(high) is not None and wanted[low] > wanted[high]:
                self.add_error(high, f"The second {words} is before the first one.")
        return wanted

    def narrow(self, backups: Any, wanted: Mapping[str, Any]) -> Any:
        if "removed" not in wanted:
            backups = backups.filter(removed_at=None)
        plain = ("tenant", "node", "status", "health", "type")
        backups = backups.filter(**{name: wanted[name] for name in plain if name in wanted})
        backups = within_days(_of_links(backups, wanted, self.person), "created_at", wanted)
        if "gone" in wanted:
            backups = backups.filter(server=None)
        if "size_from" in wanted:
            backups = backups.filter(size_bytes__gte=wanted["size_from"])
        if "size_to" in wanted:
            backups = backups.filter(size_bytes__lte=wanted["size_to"])
        return self.sought(named(backups, "server_name", wanted["q"])) if "q" in wanted else backups


def _of_links(backups: Any, wanted: Mapping[str, Any], person: Any) -> Any:
    for name, model in (("server", Server), ("definition", Definition)):
        if name in wanted:
            found = get_for_user(model.objects.all(), person=person, action=Action.VIEW, pk=wanted[name])
            backups = backups.filter(**{name: found})
    return backups


class JobFilters(PlacedForm):
    server = IdField()
    # The days of a link from the calendar are those of UTC.
    utc = forms.CharField(required=False, max_length=2, widget=forms.HiddenInput())
    created_after = MomentField()
    created_before = MomentField()
    q = NamePartField("Server")
    kind = choice_field("Kind", JOB_KIND_CHOICES, every="Any kind")
    state = choice_field("State", JOB_STATE_CHOICES, every="Any state")
    since = DayField("Asked for from")
    until = DayField("Asked for to")
    field_order = ("q", "kind", "state", "since", "until", "tenant", "node")
    more = ("tenant", "node")
    of_one = ("server",)

    def narrow(self, jobs: Any, wanted: Mapping[str, Any]) -> Any:
        jobs = jobs.filter(**{name: wanted[name] for name in ("tenant", "node", "kind", "state") if name in wanted})
        if "server" in wanted:
            found = get_for_user(Server.objects.all(), person=self.person, action=Action.VIEW, pk=wanted["server"])
            jobs = jobs.filter(disk__server=found)
        jobs = within_days(jobs, "created_at", wanted)
        return self.sought(named(jobs, "disk__server__name", wanted["q"])) if "q" in wanted else jobs


class RestoreFilters(JobFilters):
    kind = None
