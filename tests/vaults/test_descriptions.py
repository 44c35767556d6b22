"""Domain descriptions: published when something changed, signed, locked, never without a successor, killed anywhere."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from unittest import mock

import msgspec
import pytest

from agents.models import WriterKey
from backups import describing
from backups.models import Backup
from common.errors import UnavailableError
from engine.crypto import generate_writer_key
from engine.description import DiskLabel, DomainDescription, Labels, VaultFacts, parse_description
from engine.errors import FormatError
from tests import factories
from tests.vaults.key_world import KeyWorld, Killed, key_world
from vaults.custody import catalogue_key_of, domain_keys_of
from vaults.descriptions import DomainFacts, newest_descriptions, publish_description
from vaults.locks import GENERATION
from vaults.models import CatalogueKey, StoredObject
from vaults.provisioner import new_domain

pytestmark = pytest.mark.django_db
Status = StoredObject.Status
DISK = DiskLabel(source_id="disk-1", number=1, name="web.img", size_bytes=1 << 30, latest_sequence=7)
LABELS = Labels(
    tenant_title="Acme",
    server_name="web01",
    disks=[DISK],
    vault=VaultFacts(region="GRA", immutable_days=14),
    definitions=["daily"],
)
FACTS = DomainFacts(writers=frozenset({b"w" * 32}), labels=LABELS)


@pytest.fixture
def keys(db: None) -> Iterator[KeyWorld]:
    with key_world() as world:
        yield world


def publish(world: KeyWorld, facts: DomainFacts = FACTS, **options: bool) -> StoredObject:
    return publish_description(world.domain, facts, now=world.clock(), **options)


def read(world: KeyWorld, row: StoredObject) -> DomainDescription:
    """As a stranger reads it: from the store, with the fingerprint of the recovery key."""
    data = world.store.head(key=f"{world.vault.bucket}/{row.key}", version_id=row.version_id).data
    fingerprint = catalogue_key_of(world.tenant.pk).fingerprint
    return parse_description(data, catalogue_fingerprint=fingerprint, map_key=domain_keys_of(world.domain).map_key)


def renamed(facts: DomainFacts = FACTS, name: str = "web02") -> DomainFacts:
    return replace(facts, labels=msgspec.structs.replace(facts.labels, server_name=name))


def test_a_description_says_the_facts_under_the_catalogue_keys_signature(keys: KeyWorld) -> None:
    row = publish(keys)

    found = read(keys, row)
    assert (found.body.sequence, found.body.writers, found.labels) == (1, [b"w" * 32], LABELS)
    assert (found.body.tenant, found.body.domain) == (str(keys.tenant.pk), str(keys.domain.pk))
    assert (row.kind, row.status) == ("c", Status.STORED)


def test_the_same_facts_are_not_published_again(keys: KeyWorld) -> None:
    first = publish(keys)
    keys.places.clear()

    assert publish(keys).pk == first.pk

    assert keys.places == ["before get_object", "after get_object"]


def test_what_changed_is_published_with_the_next_sequence(keys: KeyWorld) -> None:
    publish(keys)
    row = publish(keys, renamed())

    found = read(keys, row)
    assert (found.body.sequence, found.labels and found.labels.server_name) == (2, "web02")


def test_a_writer_that_was_trusted_once_stays_listed(keys: KeyWorld) -> None:
    publish(keys)
    row = publish(keys, replace(FACTS, writers=frozenset({b"n" * 32})))

    assert read(keys, row).body.writers == [b"n" * 32, b"w" * 32]
    assert publish(keys, replace(FACTS, writers=frozenset())).pk == row.pk


def test_after_a_commit_a_newer_backup_alone_is_no_reason(keys: KeyWorld) -> None:
    first = publish(keys)
    newer = msgspec.structs.replace(LABELS, disks=[msgspec.structs.replace(DISK, latest_sequence=8)])

    assert publish(keys, replace(FACTS, labels=newer), counts_sequences=False).pk == first.pk
    assert publish(keys, replace(FACTS, labels=newer)).pk != first.pk


def test_a_damaged_one_is_followed_by_a_new_one_with_a_higher_sequence(keys: KeyWorld) -> None:
    publish(keys)
    second = publish(keys, renamed())
    keys.spoil(second)
    keys.pass_time(days=1)

    third = publish(keys, renamed())

    assert read(keys, third).body.sequence == 3
    assert publish(keys, renamed()).pk == third.pk


def test_one_that_is_gone_is_followed_by_a_new_one(keys: KeyWorld) -> None:
    first = publish(keys)
    keys.store._versions.clear()
    keys.pass_time(days=1)

    assert publish(keys).pk != first.pk


def test_a_store_that_is_away_is_not_a_damaged_description(keys: KeyWorld) -> None:
    publish(keys)

    with (
        mock.patch("vaults.descriptions.read_object", side_effect=UnavailableError("away")),
        pytest.raises(UnavailableError),
    ):
        publish(keys)

    assert StoredObject.objects.filter(kind="c").count() == 1


def test_facts_that_no_description_can_hold_are_refused(keys: KeyWorld) -> None:
    with pytest.raises(FormatError):
        publish(keys, renamed(name="n" * 256))

    assert not StoredObject.objects.filter(kind="c").exists()


# --- its lock ---------------------------------------------------------------------------------------------------------


def test_it_is_locked_as_long_as_the_longest_promise(keys: KeyWorld) -> None:
    promised = keys.clock() + timedelta(days=400)

    row = publish(keys, replace(FACTS, promised_until=promised))

    until = keys.store.head(key=f"{keys.vault.bucket}/{row.key}").retain_until
    assert until == row.retain_until >= promised


def test_the_lock_of_one_that_stays_is_lengthened_once_in_a_generation(keys: KeyWorld) -> None:
    facts = replace(FACTS, promised_until=keys.clock() + timedelta(days=100))
    publish(keys, facts)
    extended = []

    for _ in range(60):
        keys.pass_time(days=1)
        keys.places.clear()
        promised = keys.clock() + timedelta(days=100)
        row = publish(keys, replace(facts, promised_until=promised))
        extended.append("after put_object_retention" in keys.places)
        assert row.retain_until >= promised

    assert StoredObject.objects.filter(kind="c").count() == 1
    assert 60 // GENERATION.days - 2 <= sum(extended) <= 60 // GENERATION.days + 1


def test_one_that_was_condemned_comes_back(keys: KeyWorld) -> None:
    row = publish(keys)
    StoredObject.objects.filter(pk=row.pk).update(status=Status.CONDEMNED, condemned_epoch=3)

    assert publish(keys).status == Status.STORED


def test_the_newest_of_each_domain_is_what_removal_leaves(keys: KeyWorld) -> None:
    publish(keys)
    keys.pass_time(days=1)
    newest = publish(keys, renamed())
    other = new_domain(keys.vault, random_bytes=os.urandom)
    others = publish_description(other, FACTS, now=keys.clock())

    assert newest_descriptions(keys.vault) == {newest.pk, others.pk}


def test_a_tenant_from_before_catalogue_keys_gets_one(keys: KeyWorld) -> None:
    CatalogueKey.objects.all().delete()

    assert read(keys, publish(keys)).labels == LABELS


def test_killed_at_every_call_of_the_store(keys: KeyWorld) -> None:
    publish(keys)
    keys.places.clear()
    publish(keys, renamed())
    total = len(keys.places)
    assert total >= 6

    for place in range(total):
        keys.pass_time(hours=1)
        facts = renamed(name=f"web{place}")
        keys.places.clear()
        keys.kill_at = place
        with pytest.raises(Killed):
            publish(keys, facts)
        keys.kill_at = None
        before = {read(keys, row).body.sequence for row in StoredObject.objects.filter(kind="c", status=Status.STORED)}
        row = publish(keys, facts)
        found = read(keys, row)
        assert found.labels == facts.labels
        assert found.body.sequence > max(before)
        assert row.pk in newest_descriptions(keys.vault)
        assert all(len(versions) == 1 for versions in keys.store._versions.values())


# --- the facts --------------------------------------------------------------------------------------------------------


@pytest.fixture
def backup(keys: KeyWorld) -> Backup:
    server = factories.make_server(keys.tenant, name="web01")
    server.domain = keys.domain
    server.save()
    definition = factories.make_definition(server, name="nightly")
    found = factories.make_backup(server, definition=definition, sequence=4)
    StoredObject.objects.filter(pk=found.manifest_id).update(domain=keys.domain)
    WriterKey.objects.create(node=server.node, public_key=b"k" * 32, added_at=keys.clock())
    return Backup.objects.get(pk=found.pk)


def test_the_facts_are_those_of_the_catalogue(keys: KeyWorld, backup: Backup) -> None:
    facts = describing.collect_facts(keys.domain)

    labels = facts.labels
    disk = backup.disk
    assert facts.writers == {b"k" * 32}
    assert facts.promised_until == backup.immutable_until
    assert (labels.tenant_title, labels.server_name, labels.definitions) == (keys.tenant.title, "web01", ["nightly"])
    assert labels.disks == [
        DiskLabel(source_id=str(disk.pk), number=1, name=disk.path, size_bytes=disk.size_bytes, latest_sequence=4)
    ]
    assert labels.vault == VaultFacts(region="GRA", immutable_days=14)


def test_the_writer_of_a_backup_is_trusted_also_when_its_node_serves_the_tenant_no_more(
    keys: KeyWorld, backup: Backup
) -> None:
    assert backup.node is not None
    backup.node.tenants.clear()
    other = factories.make_node()
    WriterKey.objects.create(node=other, public_key=generate_writer_key().public, added_at=keys.clock())

    assert describing.collect_facts(keys.domain).writers == {b"k" * 32}


def test_every_domain_with_backups_is_described(keys: KeyWorld, backup: Backup) -> None:
    describing.describe_everywhere()

    row = StoredObject.objects.get(kind="c")
    labels = read(keys, row).labels
    assert row.domain_id == keys.domain.pk
    assert labels is not None
    assert labels.server_name == "web01"


def test_a_vault_that_is_away_is_asked_again_later(
    keys: KeyWorld, backup: Backup, caplog: pytest.LogCaptureFixture
) -> None:
    with mock.patch.object(describing, "store_time", side_effect=UnavailableError("away")):
        describing.describe_everywhere()

    assert "a description waits for the vault" in caplog.text
    assert not StoredObject.objects.filter(kind="c").exists()
    describing.describe_domain(keys.domain.pk, counts_sequences=False)
    assert StoredObject.objects.filter(kind="c").count() == 1
