"""Verbs over budgets. Only the operator has them; each change is in the audit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from django.core.exceptions import ValidationError
from django.db import transaction

from backups.models import Budget
from common.errors import InvalidInputError
from definitions.schedule import check_time_zone
from tenants.audit import fields_of, record, record_change
from tenants.models import Person

TARGETS = ("node", "vault", "tenant", "region", "vault_region")
EDITABLE = ("most_jobs", "bytes_per_second", "from_time", "until_time", "time_zone")


@transaction.atomic
def create_budget(*, kind: str, values: Mapping[str, Any], actor: Person) -> Budget:
    """`values` are of TARGETS and EDITABLE. Raises InvalidInputError for what makes no sense."""
    budget = Budget(kind=kind, **values)
    _save(budget)
    told = fields_of(budget, ("kind", *TARGETS, *EDITABLE))
    record(action="budget.create", subject=budget, actor=actor, tenant=budget.tenant, after=told)
    return budget


@transaction.atomic
def change_budget(*, budget: Budget, changes: Mapping[str, Any], actor: Person) -> Budget:
    """Fields of EDITABLE. Jobs that run go on as they began."""
    before = fields_of(budget, EDITABLE)
    for name, value in changes.items():
        setattr(budget, name, value)
    _save(budget)
    record_change(action="budget.edit", subject=budget, before=before, actor=actor, tenant=budget.tenant)
    return budget


@transaction.atomic
def delete_budget(*, budget: Budget, actor: Person) -> None:
    told = fields_of(budget, ("kind", *TARGETS, *EDITABLE))
    record(action="budget.delete", subject=budget, actor=actor, tenant=budget.tenant, before=told)
    budget.delete()


def _save(budget: Budget) -> None:
    budget.time_zone = check_time_zone(budget.time_zone)
    try:
        budget.full_clean()
    except ValidationError as error:
        field, messages = next(iter(error.message_dict.items()))
        words = " ".join(messages)
        named = None if field == "__all__" else field
        raise InvalidInputError(_WORDS.get(_constraint(words), words), field=named) from error
    budget.save()


# What the table refuses, in words.
_WORDS = {
    "budget_node_of_its_kind": "Only a budget of the kind node names a node.",
    "budget_vault_of_its_kind": "Only a budget of the kind vault names a vault.",
    "budget_tenant_of_its_kind": "Only a budget of the kind tenant names a tenant.",
    "budget_link_whole": "A link has two regions, that of the servers and that of their vault; nothing else has any.",
    "budget_says_something": "Say how many jobs, how many bytes per second, or both.",
    "budget_window_whole": "A window has a beginning and another end; leave both empty for always.",
    "budget_bandwidth_sane": "Choose at least 65536 bytes per second.",
}


def _constraint(words: str) -> str:
    return next((name for name in _WORDS if name in words), "")
