"""What a poll writes and asks, in one statement: its nonce, what it told, and whether anything waits for its agent.

Written out for what it costs: made by the ORM these three take several times as long, and two commits instead of one.
SQLite knows no statement that writes two tables: there they are three, one after another.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from django.db import connection

from agents.accepting import nonce_statement
from agents.models import Agent, Disk
from agents.signing import Proof
from backups.models import Job
from backups.states import ACTIVE, ON_A_NODE


@dataclass(frozen=True, slots=True)
class Noted:
    """`is_new`: the request was not here before. `is_known`: it was noted; False too when it is new, and the machine,
    its count or the agent's row is another. `has_work`: a job of this server waits or runs."""

    is_new: bool
    is_known: bool
    has_work: bool


def note_poll(agent: Agent, proof: Proof, *, changes: Mapping[str, object], count: int, machine: str) -> Noted:
    """Set `changes` (values by the names of fields) if the agent is as it was read, its machine is this one, and
    `count` was not there before. Nothing is set for a request that was here before."""
    keep, kept = nonce_statement(agent, proof)
    note, noted = _update(agent, changes, count=count, machine=machine)
    work, asked = _work(), [Agent._meta.get_field("server").get_db_prep_save(agent.server_id, connection)]
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            cursor.execute(_ALL.format(keep=keep, note=note, work=work), [*kept, *noted, *asked])
            return Noted(*cursor.fetchone())
        cursor.execute(keep, kept)
        if cursor.rowcount != 1:
            return Noted(is_new=False, is_known=False, has_work=False)
        cursor.execute(note, noted)
        is_known = cursor.rowcount == 1
        cursor.execute(f"SELECT EXISTS ({work})", asked)
        return Noted(is_new=True, is_known=is_known, has_work=bool(cursor.fetchone()[0]))


_ALL = """
WITH kept AS ({keep} RETURNING 1), noted AS ({note} AND EXISTS (SELECT 1 FROM kept) RETURNING 1)
SELECT EXISTS (SELECT 1 FROM kept), EXISTS (SELECT 1 FROM noted), EXISTS ({work})
"""


def _update(agent: Agent, changes: Mapping[str, object], *, count: int, machine: str) -> tuple[str, list[Any]]:
    fields = [(Agent._meta.get_field(name), value) for name, value in changes.items()]
    values = [field.get_db_prep_save(getattr(value, "pk", value), connection) for field, value in fields]
    told = ", ".join(f"{field.column} = %s" for field, _ in fields)
    same = "id = %s AND status = %s AND policy_number = %s AND machine IN ('', %s)"
    known = f"{same} AND (poll_time = 0 OR poll_count < %s)"
    key = Agent._meta.pk.get_db_prep_save(agent.pk, connection)
    conditions = [key, Agent.Status.ENROLLED.value, agent.policy_number, machine, count]
    return f"UPDATE {Agent._meta.db_table} SET {told} WHERE {known}", [*values, *conditions]  # noqa: S608  # names of the model


@cache
def _work() -> str:
    states, kinds = ("', '".join(sorted(names)) for names in (ACTIVE, ON_A_NODE))
    return (
        f"SELECT 1 FROM {Job._meta.db_table} job JOIN {Disk._meta.db_table} disk ON disk.id = job.disk_id"  # noqa: S608  # names of the models, and states
        f" WHERE disk.server_id = %s AND job.node_id IS NULL AND job.state IN ('{states}') AND job.kind IN ('{kinds}')"
    )
