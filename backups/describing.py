"""Collecting what a domain's description says, and having it published. Runs in the control worker."""

from __future__ import annotations

import logging
from dataclasses import replace
from uuid import UUID

import msgspec
from django.db.models import Max

from agents.models import Disk, Server
from backups.models import Backup
from backups.writer_keys import writer_keys_of
from common.errors import BackupsiteError, UnavailableError
from definitions.models import Definition
from engine.description import DiskLabel, Labels, VaultFacts
from engine.errors import EngineError
from vaults.descriptions import DomainFacts, publish_description, published_labels
from vaults.models import Domain
from vaults.storage import Credential, store_time

logger = logging.getLogger(__name__)

_LONGEST_LABEL = 255
_MOST_LABELS = 4096


def describe_everywhere() -> None:
    """Every domain that has backups, one after the other; a vault that is away does not keep the others from it."""
    for domain_id in Backup.objects.in_catalogue().values_list("manifest__domain", flat=True).distinct():
        if domain_id is not None:
            describe_domain(domain_id)


def describe_domain(domain_id: UUID, *, counts_sequences: bool = True) -> None:
    """Publish what is known of the domain now, if that is not what its newest description says.

    Without `counts_sequences` a newer backup alone is no reason. Store trouble is logged: the next round tries again.
    """
    domain = Domain.objects.select_related("tenant", "vault__endpoint").get(pk=domain_id)
    try:
        now = store_time(domain.vault, Credential.KEEPER)
        facts = collect_facts(domain) if domain.held_for_id is None else _facts_of_moved(domain)
        publish_description(domain, facts, now=now, counts_sequences=counts_sequences)
    except UnavailableError as error:
        logger.warning("a description waits for the vault", extra={"domain": str(domain_id), "reason": error.message})
    except (BackupsiteError, EngineError) as error:
        logger.error("a description was not published", extra={"domain": str(domain_id), "reason": error.message})


def collect_facts(domain: Domain) -> DomainFacts:
    """What a stranger needs to know of the domain, from the catalogue."""
    server = Server.objects.filter(domain=domain).first()
    backups = Backup.objects.in_catalogue().filter(manifest__domain=domain)
    allowed = writer_keys_of(domain)
    definitions = Definition.objects.filter(disk__server=server).order_by("name").values_list("name", flat=True)
    vault = domain.vault
    return DomainFacts(
        writers=frozenset(bytes(key) for key in allowed.values_list("public_key", flat=True)),
        labels=Labels(
            tenant_title=_label(domain.tenant.title),
            server_name=_label(server.name if server else ""),
            disks=_disk_labels(server, domain),
            vault=VaultFacts(region=vault.endpoint.region_id, immutable_days=vault.immutable_days),
            definitions=[_label(name) for name in dict.fromkeys(definitions)][:_MOST_LABELS],
        ),
        promised_until=backups.aggregate(latest=Max("immutable_until"))["latest"],
    )


def _facts_of_moved(domain: Domain) -> DomainFacts:
    """Its server is another tenant's now: whose, by id alone. What that one names is not written into this vault."""
    facts = collect_facts(domain)
    labels = published_labels(domain) or facts.labels
    return replace(facts, labels=msgspec.structs.replace(labels, present_owner=str(domain.held_for_id)))


def _disk_labels(server: Server | None, domain: Domain) -> list[DiskLabel]:
    newest = Backup.objects.filter(manifest__domain=domain).values("disk_id").annotate(last=Max("sequence"))
    sequences = {row["disk_id"]: row["last"] or 0 for row in newest}
    disks = Disk.objects.filter(server=server).order_by("number")[:_MOST_LABELS]
    return [
        DiskLabel(
            source_id=str(disk.pk),
            number=disk.number,
            name=_label(disk.path),
            size_bytes=disk.size_bytes,
            latest_sequence=sequences.get(disk.pk, 0),
        )
        for disk in disks
    ]


def _label(text: str) -> str:
    return text[:_LONGEST_LABEL]
