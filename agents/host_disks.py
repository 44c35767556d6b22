"""The one disk of a server with an agent: all of it, as the file trees that the agent finds."""

from __future__ import annotations

from django.db import transaction

from agents.agent_messages import TreeFacts
from agents.models import HOST_DRIVER, Agent, Disk, Server
from agents.new_disks import tell_of_new_disk
from tenants.audit import record

# Until the agent has told what there is, with its first poll.
FIRST_SIZE_BYTES = 1024**3


def ensure_host_disk(server: Server) -> Disk | None:
    """The server's disk, made when it has none; its policy gives it a definition. None for a server on a node."""
    if server.node_id is not None:
        return None
    present: Disk | None = server.disks.filter(driver=HOST_DRIVER).first()
    if present is not None:
        return present
    with transaction.atomic():
        disk = Disk.objects.create(
            server=server, number=1, driver=HOST_DRIVER, storage=None, path="/", size_bytes=FIRST_SIZE_BYTES
        )
        record(action="disk.create", subject=disk, actor=None, after={"number": 1, "driver": HOST_DRIVER, "path": "/"})
        tell_of_new_disk(disk)
    return disk


def note_trees(agent: Agent, trees: list[TreeFacts]) -> None:
    """What of the server is backed up decides how large its disk counts as."""
    size_bytes = sum(max(0, tree.total_bytes) for tree in trees if not tree.left_out)
    disk = ensure_host_disk(agent.server)
    if disk is not None:
        Disk.objects.filter(pk=disk.pk).update(size_bytes=min(max(size_bytes, FIRST_SIZE_BYTES), 2**62))
