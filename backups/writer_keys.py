"""Whose signature of a manifest counts: of nodes, and of agents, each within what it may write."""

from __future__ import annotations

from django.db.models import Q, QuerySet

from agents.models import Server, WriterKey
from backups.models import Backup, Job
from vaults.models import Domain


def writer_keys_of(domain: Domain) -> QuerySet[WriterKey]:
    """Nodes that may write for the domain's tenant, the agents of its servers, and the nodes that wrote what is in it.

    A server that was moved has another domain now; what its agent wrote before is in the former one.
    """
    written = Backup.objects.filter(manifest__domain=domain)
    servers = Server.objects.filter(Q(domain=domain) | Q(pk__in=written.values("server")))
    return WriterKey.objects.filter(
        Q(node__tenants=domain.tenant_id) | Q(node__in=written.values("node")) | Q(agent__server__in=servers)
    ).distinct()


def writer_keys_for(job: Job) -> QuerySet[WriterKey]:
    """Of whoever has the job: its node, or the agent of its server."""
    if job.node_id is not None:
        return WriterKey.objects.filter(node_id=job.node_id)
    return WriterKey.objects.filter(agent__server__disks=job.disk_id)
