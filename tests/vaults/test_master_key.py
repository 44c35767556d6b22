"""Changing the master key: all or nothing, nothing forgotten, no key on a command line."""

from __future__ import annotations

import base64
import os
from collections.abc import Iterator
from io import StringIO
from typing import Any

import pytest
from django.apps import apps
from django.core.management import CommandError, call_command
from django.db import models
from pydantic import SecretStr

from common.errors import ConfigurationError
from tests.vaults.key_world import MASTER_KEY, KeyWorld, key_world
from vaults.custody import catalogue_key_of, domain_keys_of, private_key_of
from vaults.master_key import WRAPPED, rewrap_all
from vaults.models import Domain, TenantKey

pytestmark = pytest.mark.django_db
NEW = bytes(reversed(range(32)))
ENVIRONMENT = "BACKUPSITE_NEW_MASTER_KEY"


@pytest.fixture
def keys(db: None) -> Iterator[KeyWorld]:
    with key_world() as world:
        yield world


def opened(world: KeyWorld) -> list[object]:
    domain = Domain.objects.get(pk=world.domain.pk)
    return [private_key_of(world.key), catalogue_key_of(world.tenant.pk), domain_keys_of(domain)]


def use(settings: Any, key: bytes) -> None:
    master_key = SecretStr(base64.b64encode(key).decode())
    settings.CONFIG = settings.CONFIG.model_copy(update={"master_key": master_key})


def test_the_list_has_every_wrapped_column_of_every_model() -> None:
    # What anybody may read: the rules of a time zone, what was signed for agents, a public key.
    signed = {"agents.Release.manifest", "agents.Release.signature", "agents.Agent.policy"}
    public = {"definitions.ZoneRules.data", "agents.EnrolmentToken.writer_key", *signed}
    columns = {
        f"{model._meta.label}.{field.name}"
        for model in apps.get_models()
        for field in model._meta.get_fields()
        if isinstance(field, models.BinaryField) and "public" not in field.name
    }

    assert {str(column) for column in WRAPPED} == columns - public


def test_everything_opens_with_the_new_key_and_nothing_with_the_old(keys: KeyWorld, settings: object) -> None:
    before = opened(keys)
    TenantKey.objects.create(tenant=keys.tenant, mode="customer", status="untested", public_key=bytes(32))

    counts = rewrap_all(old=MASTER_KEY, new=NEW, write=True)

    assert sum(counts.values()) == 4
    with pytest.raises(ConfigurationError):
        private_key_of(keys.key)
    use(settings, NEW)
    assert opened(keys) == before


def test_a_dry_run_changes_nothing(keys: KeyWorld) -> None:
    before = bytes(keys.key.wrapped_private_key or b"")

    rewrap_all(old=MASTER_KEY, new=NEW, write=False)

    assert bytes(keys.key.wrapped_private_key or b"") == before


def test_one_row_that_does_not_open_stops_it_all(keys: KeyWorld) -> None:
    before = opened(keys)
    other = KeyWorld()
    Domain.objects.filter(pk=other.domain.pk).update(wrapped_map_key=b"\x01" + os.urandom(60))

    with pytest.raises(ConfigurationError):
        rewrap_all(old=MASTER_KEY, new=NEW, write=True)

    assert opened(keys) == before


def run(*arguments: str) -> str:
    said = StringIO()
    call_command("rotate_master_key", *arguments, stdout=said)
    return said.getvalue()


def test_the_command_checks_first_and_writes_when_told(
    keys: KeyWorld, settings: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ENVIRONMENT, base64.b64encode(NEW).decode())
    before = opened(keys)

    dry = run()
    assert opened(keys) == before
    wet = run("--write")

    assert "Nothing was changed" in dry
    use(settings, NEW)
    assert opened(keys) == before
    for secret in (MASTER_KEY, NEW):
        assert base64.b64encode(secret).decode() not in dry + wet


@pytest.mark.parametrize(
    "value", ["", "nonsense", base64.b64encode(bytes(31)).decode(), base64.b64encode(MASTER_KEY).decode()]
)
def test_the_command_refuses_a_bad_key_without_repeating_it(
    keys: KeyWorld, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv(ENVIRONMENT, value)

    with pytest.raises(CommandError) as caught:
        run("--write")

    assert not value or value not in str(caught.value)
