"""Enrolment: a one-time token for an identity. And leaving."""

from __future__ import annotations

from uuid import UUID

from agents import agent_messages as messages
from agents.program.agent import control
from agents.program.agent.errors import AgentError, UsageError
from agents.program.agent.facts import host_facts
from agents.program.agent.files import only_one
from agents.program.agent.identity import (
    Identity,
    forget,
    load_identity,
    read_token,
    request_key,
    save_identity,
    writer_key,
)
from agents.program.agent.memory import ControlClock, Memory, save_memory
from agents.program.agent.places import Places, Settings
from agents.program.agent.tls import read_url


def enrol(
    places: Places, settings: Settings, *, token: str, url: str, version: str, way: control.Way | None = None
) -> Identity:
    """Raises AgentError. May be asked again with the same token as long as its answer got lost."""
    told, endpoint = read_token(token), read_url(url)
    with only_one(places.lock):
        if places.identity.exists():
            raise UsageError(
                f"This server is enrolled already, as {load_identity(places).server}. `unenrol --purge` first.",
                code="already_enrolled",
            )
        places.state.chmod(0o700)
        request = messages.EnrolRequest(
            secret=told.secret,
            public_key=request_key(places).public,
            writer_key=writer_key(places).public,
            host=host_facts(),
            version=version,
        )
        answer = control.enrol(way or control.way_to(endpoint, ca_file=settings.ca_file), request, told)
        identity = Identity(
            url=endpoint.url,
            agent_id=UUID(answer.agent_id),
            server=answer.server,
            tenant=answer.tenant,
            status=answer.status,
            control_key=answer.control_key,
            release_key=answer.release_key,
            tls_pins=answer.tls_pins,
        )
        clock = ControlClock(None)
        clock.learn(answer.time)
        save_memory(places, Memory(anchor=clock.anchor, status=answer.status))
        save_identity(places, identity)
    return identity


def unenrol(places: Places, client: control.ControlClient | None, *, purge: bool) -> str:
    """Tell the control plane, then wipe the keys with `purge`. What it could not be told is returned, in words.

    Backups stay in the vault as long as their locks and the tenant's retention keep them.
    """
    untold = ""
    try:
        if client is not None:
            client.unenrol()
    except AgentError as error:
        if not purge:
            raise
        untold = error.message
    if purge:
        forget(places)
    return untold
