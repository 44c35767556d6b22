"""Puts an agent together from what is on disk and the machine that it runs on."""

from __future__ import annotations

import logging
import os
import secrets
from collections.abc import Callable
from functools import partial
from pathlib import Path

from agents.agent_messages import UpdateOffer
from agents.drivers.host import HostDriver
from agents.program.agent import rotating
from agents.program.agent.control import ControlClient, client_of, fetch_file
from agents.program.agent.facts import host_facts
from agents.program.agent.identity import Identity, load_identity, request_key
from agents.program.agent.loop import Agent, Surroundings
from agents.program.agent.memory import ControlClock, Memory, load_memory
from agents.program.agent.moving import MoveOrder, host_settings
from agents.program.agent.places import Places, Settings
from agents.program.agent.tls import read_url
from agents.program.agent.trees import clean_up, tree_facts
from agents.program.agent.update import Installation, checked_release, install_release
from agents.program.agent.version import VERSION, release_number
from agents.program.agent.worker import MovingProcess, Worker
from agents.signing import sign_request

logger = logging.getLogger(__name__)


def control_of(places: Places, settings: Settings, identity: Identity, clock: ControlClock) -> ControlClient:
    """With the key that the control plane knows: of two, when a rotation was cut, the new one is tried first."""
    if key := rotating.next_key(places):
        client = client_of(identity, key, clock, ca_file=settings.ca_file)
        try:
            client.backups()
        except Exception as error:  # whatever it is, the present key may still be the one
            logger.warning("the next key does not work yet", extra={"reason": str(error)})
        else:
            rotating.settle(places)
            return client
    return client_of(identity, request_key(places), clock, ca_file=settings.ca_file)


def assemble(places: Places, settings: Settings, woken: Callable[[], None]) -> Agent:
    """Raises NotEnrolledError, UsageError. `woken` is called from another thread when there is something to do."""
    identity, memory = load_identity(places), load_memory(places)
    clock = ControlClock(memory.anchor)
    HostDriver.configured = host_settings(places, settings, None)
    driver = HostDriver()
    return Agent(
        places=places,
        settings=settings,
        identity=identity,
        control=control_of(places, settings, identity, clock),
        clock=clock,
        memory=memory,
        world=Surroundings(
            host=host_facts,
            trees=partial(tree_facts, driver),
            start=partial(_start, places, woken),
            clean=partial(clean_up, driver),
            take_update=partial(take_update, places, settings, identity, memory, clock),
            version=VERSION,
            release=release_number(),
        ),
    )


def _start(places: Places, woken: Callable[[], None], order: MoveOrder) -> Worker:
    log = os.open(places.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        return MovingProcess(places, order, woken, log=log)
    finally:
        os.close(log)


def take_update(
    places: Places, settings: Settings, identity: Identity, memory: Memory, clock: ControlClock, offer: UpdateOffer
) -> None:
    """Raises UpdateError, UnreachableError. Afterwards the new release is on trial, and the agent is to start anew."""
    installation = Installation(Path(settings.programs))
    manifest = checked_release(
        offer,
        release_key=identity.release_key,
        running=max(release_number(), installation.current, memory.release),
        failed=max(memory.failed_release, installation.failed()),
    )
    key = request_key(places)

    def headers(path: str) -> dict[str, str]:
        header = sign_request(
            private_key=key.private,
            agent_id=identity.agent_id,
            method="GET",
            path=path,
            body=b"",
            time_seconds=max(1, int(clock.seconds())),
            nonce=secrets.token_bytes(16),
        )
        return {"Authorization": header}

    def fetch(file: str, to: Path, *, size_bytes: int) -> str:
        return fetch_file(
            read_url(identity.url),
            file,
            to,
            size_bytes=size_bytes,
            pins=identity.tls_pins,
            ca_file=settings.ca_file,
            headers=headers,
        )

    install_release(manifest, installation, fetch)
