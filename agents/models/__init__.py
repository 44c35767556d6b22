"""How data is reached: nodes, storages, servers, disks; and the agents on servers. Import models from here."""

from agents.models.core import (
    Disk,
    Node,
    Server,
    ServerGroupPermission,
    ServerUserPermission,
    Storage,
    WriterKey,
)
from agents.models.principals import Agent, AgentNonce

__all__ = [
    "Agent",
    "AgentNonce",
    "Disk",
    "Node",
    "Server",
    "ServerGroupPermission",
    "ServerUserPermission",
    "Storage",
    "WriterKey",
]
