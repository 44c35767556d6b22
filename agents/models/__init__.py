"""How data is reached: nodes, storages, servers, disks; and the agents on servers. Import models from here."""

from agents.models.core import (
    HOST_DRIVER,
    Disk,
    Node,
    Server,
    ServerGroupPermission,
    ServerUserPermission,
    Storage,
    WriterKey,
)
from agents.models.enrolment import EnrolmentToken, Release, ServerOrder
from agents.models.principals import Agent, AgentNonce

__all__ = [
    "HOST_DRIVER",
    "Agent",
    "AgentNonce",
    "Disk",
    "EnrolmentToken",
    "Node",
    "Release",
    "Server",
    "ServerGroupPermission",
    "ServerOrder",
    "ServerUserPermission",
    "Storage",
    "WriterKey",
]
