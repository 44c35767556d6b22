"""Format version 1 is fixed: its stored fixture restores for ever, and its bytes do not drift."""

from __future__ import annotations

import json
from typing import Any

import pytest

from engine.envelope import unwrap_envelope
from engine.hashing import derive_key, keyed_hash, nonce_hash
from engine.repository import open_manifest
from engine.restore import RestoreKeys, restore_disk
from engine.store.base import ObjectRef
from tests.engine.support import DOMAIN, TENANT, ImageTarget
from tests.golden.build_engine_v1 import FOLDER, golden_images, pinned_names

COMMITMENT = "a86a80ca3796a040a589914c9030cd35845c00c34548d33044830b357bff475c"
BLOCK_ID = "7de91e72489292b105284e077db03942cf79612db46625e472452d5def89d275"
NONCE = "dd794ad45778cd2f5a863722"


def _index() -> dict[str, Any]:
    return json.loads((FOLDER / "index.json").read_text())


class FixtureSource:
    """Reads by name only, as from a bucket without any database."""

    def get(self, ref: ObjectRef, *, offset: int = 0, length: int | None = None) -> bytes:
        data = (FOLDER / f"{_index()['objects'][ref.key]}.bin").read_bytes()
        return data[offset : len(data) if length is None else offset + length]


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.case("RS-16")
def test_the_fixture_of_version_1_restores(number: int) -> None:
    index = _index()
    manifest = ObjectRef(**index["manifests"][number])
    writers = [bytes.fromhex(index["writer_public_key"])]
    info = open_manifest(manifest_ref=manifest, object_source=FixtureSource(), trusted_writers=writers)
    unwrapped = [
        unwrap_envelope(
            FixtureSource().get(ref),
            tenant_private_key=bytes.fromhex(index["tenant_private_key"]),
            tenant=TENANT,
            domain=DOMAIN,
        )
        for ref in info.body.needed_refs()
        if "/k/" in ref.key
    ]
    keys = RestoreKeys(
        domain=unwrapped[0].domain,
        data_keys={keys.session.session_id: keys.session.data_key for keys in unwrapped},
    )
    target = ImageTarget(info.body.size_bytes)

    result = restore_disk(
        manifest_ref=manifest,
        object_source=FixtureSource(),
        keys=keys,
        trusted_writers=writers,
        target=target,
    )

    assert target.data == golden_images()[number]
    assert result.manifest.source_facts == {"name": "vda"}


def test_the_bytes_of_all_objects_are_pinned() -> None:
    assert pinned_names() == _index()["pinned"]


def test_the_key_derivations_are_pinned() -> None:
    assert derive_key("key commitment", bytes(32)).hex() == COMMITMENT
    assert keyed_hash(bytes(32), b"block").hex() == BLOCK_ID
    assert nonce_hash(bytes(32), bytes(16), b"payload").hex() == NONCE
