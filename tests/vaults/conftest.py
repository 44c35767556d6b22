"""One real server with Object Lock for the tests of this folder, and a vault in it that was never probed."""

from __future__ import annotations

import base64
import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from pydantic import SecretStr

from backupsite.stack.secret_files import S3_IDENTITIES, S3Credential, new_credential
from backupsite.stack.weed import EmbeddedWeed
from backupsite.stack.weed_config import S3Identity, stack_identities
from tests.factories import make_tenant, make_vault
from vaults.models import Vault


@pytest.fixture(scope="session")
def weed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedWeed]:
    """The stack's own keys and, only here, one that may do everything."""
    root = S3Identity(name="root", credential=new_credential(), object_actions=("s3:*",), bucket_actions=("s3:*",))
    identities = (*stack_identities({name: new_credential() for name in S3_IDENTITIES}), root)
    with EmbeddedWeed(tmp_path_factory.mktemp("weed"), identities=identities) as server:
        yield server


Hold = Callable[..., None]


@pytest.fixture
def hold(settings: Any, weed: EmbeddedWeed) -> Hold:
    """Let this process hold exactly the named credentials; a keyword gives one the key of another."""

    def hold(*names: str, **instead: str) -> None:
        told: dict[str, Any] = {"master_key": SecretStr(base64.b64encode(os.urandom(32)).decode())}
        for name in S3_IDENTITIES:
            held = name in names or name in instead
            key = weed.credentials[instead.get(name, name)] if held else S3Credential("", "")
            told |= {f"s3_{name}_access_key": key.access_key, f"s3_{name}_secret_key": SecretStr(key.secret_key)}
        settings.CONFIG = settings.CONFIG.model_copy(update=told)

    return hold


@pytest.fixture
def control(hold: Hold) -> None:
    """As the control worker."""
    hold("keeper", "provisioner", "copier")


@pytest.fixture
def vault(db: None, weed: EmbeddedWeed, control: None) -> Vault:
    """A pending vault whose bucket is not made yet."""
    vault = make_vault(make_tenant(), status=Vault.Status.PENDING)
    vault.endpoint.url = weed.url
    vault.endpoint.save()
    return vault
