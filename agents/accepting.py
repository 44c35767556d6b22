"""Which agent signed a request, and whether it is let in: once, now, by the agent whose key signed it.

Nothing is written before the signature was found right. Thousands ask each minute: the statements are written out,
because making them by the ORM takes several times as long as running them.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any
from uuid import UUID

from django.db import connection
from django.db.models.expressions import Col

from agents.models import Agent, AgentNonce
from agents.principals import AgentPendingError, AgentQuarantinedError, AgentRevokedError
from agents.signing import WINDOW_SECONDS, Proof, is_in_time, is_signed_by
from common.errors import NotSignedInError

Status = Agent.Status
# Hardly a request needs them for its answer, and they are large.
_LEFT_OUT = frozenset({"trees", "facts"})
# For agents that are not known: their signatures take as long to refuse.
_NOBODYS_KEY = bytes.fromhex("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a")


class ClockSkewError(NotSignedInError):
    """The agent's clock is too far from ours. `extra["time"]` is ours."""

    code = "clock_skew"


class ReplayedError(NotSignedInError):
    """This very request was accepted before."""

    code = "replayed"


@dataclass(frozen=True, slots=True)
class SignedRequest:
    """What a signature is about, as it arrived."""

    proof: Proof
    method: str
    path: str
    body: bytes


def signer_of(request: SignedRequest) -> Agent | None:
    """The agent whose key made the signature, whatever its status is; None says nothing about which part was wrong."""
    agent = _agent_of(request.proof.agent_id)
    public_key = bytes(agent.public_key) if agent else _NOBODYS_KEY
    is_right = is_signed_by(public_key, request.proof, method=request.method, path=request.path, body=request.body)
    return agent if is_right else None


def check_request(agent: Agent, proof: Proof, *, now: datetime) -> None:
    """Whether the agent may ask, now. Raises AgentRevokedError, AgentPendingError, AgentQuarantinedError,
    ClockSkewError. Nothing is done for it before its nonce is kept, too."""
    if agent.status == Status.REVOKED:
        raise AgentRevokedError("This agent was revoked. Enrol it again, with a new key.")
    if agent.status == Status.PENDING:
        raise AgentPendingError("This agent waits for the approval of an administrator.")
    if agent.status == Status.QUARANTINED:
        raise AgentQuarantinedError(f"This agent is in quarantine: {agent.quarantine_reason} An administrator decides.")
    if not is_in_time(proof, now_seconds=now.timestamp()):
        raise ClockSkewError(
            f"The clocks are apart by more than {WINDOW_SECONDS} seconds. Here it is {now:%H:%M:%S} UTC.",
            extra={"time": now.isoformat(timespec="seconds")},
        )


def keep_nonce(agent: Agent, proof: Proof) -> None:
    """The nonce is in the database before anything is done, so a replay is refused by every process, after a restart,
    too. Raises ReplayedError when it is there."""
    with connection.cursor() as cursor:
        cursor.execute(*nonce_statement(agent, proof))
        is_new = cursor.rowcount == 1
    if not is_new:
        raise ReplayedError("This request was made before.")


def nonce_statement(agent: Agent, proof: Proof) -> tuple[str, list[Any]]:
    """Adds one row, or none when it is there, and leaves a transaction that it may be in as good as before."""
    # Kept until the time stamp is out of the window for certain.
    forgotten_at = datetime.fromtimestamp(proof.time_seconds, tz=UTC) + timedelta(seconds=WINDOW_SECONDS + 60)
    nonce = AgentNonce(agent=agent, nonce=proof.nonce, expires_at=forgotten_at)
    fields = [field for field in AgentNonce._meta.concrete_fields if not field.primary_key]
    values = [field.get_db_prep_save(getattr(nonce, field.attname), connection) for field in fields]
    names, places = ", ".join(field.column for field in fields), ", ".join(["%s"] * len(fields))
    table = AgentNonce._meta.db_table
    return f"INSERT INTO {table} ({names}) VALUES ({places}) ON CONFLICT DO NOTHING", values  # noqa: S608  # names of the model


def forget_nonces(*, now: datetime) -> int:
    """Remove what can no longer be replayed. Returns how many."""
    return AgentNonce.objects.filter(expires_at__lte=now).delete()[0]


def _agent_of(agent_id: UUID) -> Agent | None:
    """As the ORM makes it, without what is left out."""
    statement, names, converters = _reading()
    with connection.cursor() as cursor:
        cursor.execute(statement, [Agent._meta.pk.get_db_prep_value(agent_id, connection)])
        row = cursor.fetchone()
    if row is None:
        return None
    values = list(row)
    for place, convert, column in converters:
        values[place] = convert(values[place], column, connection)
    agent: Agent = Agent.from_db(connection.alias, names, values)
    return agent


@cache
def _reading() -> tuple[str, list[str], list[tuple[int, Any, Col]]]:
    """The statement, the attributes that it gives, and by its place what makes a value of a column that the database
    has in another form: with PostgreSQL none."""
    table, fields = Agent._meta.db_table, [one for one in Agent._meta.concrete_fields if one.name not in _LEFT_OUT]
    columns = [Col(table, field) for field in fields]
    converters = [
        (place, convert, column)
        for place, column in enumerate(columns)
        for convert in (*connection.ops.get_db_converters(column), *column.get_db_converters(connection))
    ]
    told = ", ".join(field.column for field in fields)
    statement = f"SELECT {told} FROM {table} WHERE {Agent._meta.pk.column} = %s"  # noqa: S608  # names of the model
    return statement, [field.attname for field in fields], converters
