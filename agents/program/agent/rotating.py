"""A new key for requests. At no moment is the key lost that the control plane knows."""

from __future__ import annotations

import os

from agents.program.agent.control import ControlClient
from agents.program.agent.files import read_if_there, sync_folder, write_whole
from agents.program.agent.identity import NEXT_KEY
from agents.program.agent.places import Places
from agents.program.signing import FILE_NAME
from engine.crypto import WriterKey, generate_writer_key, writer_key_from_private


def next_key(places: Places) -> WriterKey | None:
    """One that the control plane was asked to take, and the answer never came."""
    private = read_if_there(places.request_keys / NEXT_KEY)
    return writer_key_from_private(private) if private else None


def rotate(places: Places, client: ControlClient) -> None:
    """Raises AgentError; then the old key is the one, or both have to be tried (`settle`)."""
    key = next_key(places) or generate_writer_key()
    write_whole(places.request_keys / NEXT_KEY, key.private)
    client.rotate(key.public)
    settle(places)


def settle(places: Places) -> None:
    """The next key is the key: the control plane answered to it, or took it."""
    os.replace(places.request_keys / NEXT_KEY, places.request_keys / FILE_NAME)  # noqa: PTH105  # as files.write_whole
    sync_folder(places.request_keys)
