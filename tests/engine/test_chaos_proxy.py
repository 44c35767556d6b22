"""Writer and reader and the real storage, over a network that cuts, loses, doubles and delays."""

from __future__ import annotations

import time
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from engine.codec import OBJECT_SIZE_MAX
from engine.store.base import fetch_whole
from engine.store.http import GrantedSink, GrantedSource, HttpPolicy
from tests.bench.places import LOCKED_BUCKET, bucket_place
from tests.bench.stores import Signer
from tests.engine.chaos_proxy import KINDS, ChaosProxy
from tests.engine.support import ImageSource, ImageTarget, Vault, noise

pytestmark = [pytest.mark.stack, pytest.mark.timeout(400)]

# Long enough for a machine that is busy with others; no attempt waits for it.
POLICY = HttpPolicy(retry_seconds=60, sleep=lambda _: time.sleep(0.005))
SIZES = {"block_size": 4096, "pack_size": 40_000}


def test_a_chain_is_written_and_restored_through_all_kinds_of_trouble(tmp_path: Path) -> None:
    vault, image = Vault(), bytearray(noise(1_000_000))
    with bucket_place(tmp_path) as place, ChaosProxy(urlsplit(place.url).port, seed=20261122) as proxy:
        key = place.credentials["signer"]
        over = Signer(proxy.url, LOCKED_BUCKET, key.access_key, key.secret_key)
        direct = GrantedSource(Signer(place.url, LOCKED_BUCKET, key.access_key, key.secret_key))
        sink, source = GrantedSink(over, policy=POLICY), GrantedSource(over, policy=POLICY)

        first = vault.write(bytes(image), sink=sink, **SIZES)
        image[300_000:500_000] = noise(200_000, "new")
        vault.store = source
        second = vault.write(ImageSource(image), base=first, sink=sink, **SIZES)
        target = ImageTarget(len(image))
        for _ in range(3):
            vault.restore(second.manifest, target)
            assert target.data == image

        assert set(proxy.done) == set(KINDS), f"not all kinds of trouble came: {proxy.done}"
        vault.store = direct
        for result in (first, second):
            for ref in (result.manifest, *vault.open(result.manifest).body.needed_refs()):
                fetch_whole(direct, ref, size_max=OBJECT_SIZE_MAX)
        listed = place.client.list_object_versions(Bucket=LOCKED_BUCKET)
        names = [version["Key"] for version in listed["Versions"]]
        assert len(names) == len(set(names)), "an object was stored twice"
