"""What is sent is what was sealed: faults of the compressor, the memory and the wire are found, and told apart."""

from __future__ import annotations

import base64
import hashlib
from typing import Any

import pytest

from engine.compression import Compression, Compressor
from engine.envelope import parse_envelope
from engine.errors import IntegrityError, StoreError
from engine.hashing import sha256_hex
from engine.store.base import ObjectKind, ObjectRef
from engine.store.http import Grant, GrantedSink, PutSpec
from engine.upload import Uploader
from tests.engine.support import DOMAIN, TENANT, Vault, noise


class SpoilingSink:
    """Flips a bit of packs on the way to the store, the first so many times."""

    def __init__(self, vault: Vault, times: int) -> None:
        self._vault = vault
        self._times = times
        self.puts: list[str] = []

    def put(self, *, key: str, data: bytes, sha256: str) -> ObjectRef:
        self.puts.append(key)
        if "/p/" in key and self._times:
            self._times -= 1
            data = bytes([data[0] ^ 1]) + data[1:]
        return self._vault.store.put(key=key, data=data, sha256=sha256)


def test_a_pack_that_is_spoiled_on_the_way_is_sent_again() -> None:
    vault = Vault()
    sink = SpoilingSink(vault, times=1)
    image = noise(5000)

    result = vault.write(image, sink=sink)

    assert sum("/p/" in key for key in sink.puts) == 2
    assert vault.restored(result.manifest) == image


def test_a_way_that_spoils_every_pack_fails_the_backup() -> None:
    vault = Vault()

    with pytest.raises(StoreError) as caught:
        vault.write(noise(5000), sink=SpoilingSink(vault, times=100))

    assert caught.value.code == "bad_digest"
    assert not any("/m/" in version.key or "/p/" in version.key for version in vault.store.list_versions())


def _uploader(sink: Any) -> Uploader:
    return Uploader(sink=sink, tenant=TENANT, domain=DOMAIN, cancel=lambda: False)


def test_a_pack_that_changed_in_memory_is_not_blamed_on_the_way() -> None:
    data: Any = bytearray(noise(5000))
    sha256 = sha256_hex(data)
    data[100] ^= 1
    vault = Vault()

    with _uploader(vault.store) as uploader, pytest.raises(IntegrityError) as caught:
        uploader.submit(ObjectKind.PACK, data, sha256=sha256)
        uploader.drain()

    assert caught.value.code == "memory_fault"
    assert vault.store.list_versions() == []


def test_a_pack_that_changed_in_memory_is_not_even_offered_to_a_store_over_http() -> None:
    """Its MD5 would be that of the damaged bytes, and a store that checks nothing else would take it."""
    asked: list[PutSpec] = []

    class Grants:
        def grant_puts(self, specs: list[PutSpec]) -> list[Grant]:
            asked.extend(specs)
            return []

        def grant_gets(self, refs: list[ObjectRef]) -> list[Grant]:
            return []

    data = bytearray(noise(5000))
    sha256 = sha256_hex(data)
    data[100] ^= 1

    with pytest.raises(IntegrityError) as caught:
        GrantedSink(Grants()).put(key="t/a/d/b/p/x", data=data, sha256=sha256)

    assert caught.value.code == "memory_fault"
    assert asked == []


def test_the_md5_that_is_granted_is_that_of_the_named_bytes() -> None:
    data = noise(5000)
    specs: list[PutSpec] = []

    class Grants:
        def grant_puts(self, asked: list[PutSpec]) -> list[Grant]:
            specs.extend(asked)
            raise StoreError("enough")

        def grant_gets(self, refs: list[ObjectRef]) -> list[Grant]:
            return []

    with pytest.raises(StoreError):
        GrantedSink(Grants()).put(key="t/a/d/b/p/x", data=data, sha256=sha256_hex(data))

    assert specs[0].md5_base64 == base64.b64encode(hashlib.md5(data).digest()).decode()


@pytest.mark.parametrize("fault", ["other text", "cut", "flipped"])
def test_a_faulty_compressor_is_found_before_anything_is_sent(monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    honest = Compressor.compress

    def faulty(self: Compressor, data: bytes | memoryview) -> tuple[Compression, bytes | memoryview]:
        kind, packed = honest(self, b"other text" * 60 if fault == "other text" else data)
        packed = bytearray(packed)
        if fault == "flipped":
            packed[len(packed) // 2] ^= 4
        return kind, bytes(packed[:-1] if fault == "cut" else packed)

    monkeypatch.setattr(Compressor, "compress", faulty)
    vault = Vault()

    with pytest.raises(IntegrityError):
        vault.write(b"some text " * 1000)

    assert vault.store.list_versions() == []


# --- the key envelope ---------------------------------------------------------------------------------------------


def test_the_envelope_is_stored_before_the_first_pack_is_sent() -> None:
    vault = Vault()
    stored_at_first_pack: list[bool] = []

    class Watching:
        def put(self, *, key: str, data: bytes, sha256: str) -> ObjectRef:
            if "/p/" in key:
                kinds = [version.key.split("/")[4] for version in vault.store.list_versions()]
                stored_at_first_pack.append("k" in kinds)
            return vault.store.put(key=key, data=data, sha256=sha256)

    result = vault.write(noise(50_000), sink=Watching())

    assert len(stored_at_first_pack) > 3 and all(stored_at_first_pack)
    envelopes = [ref for ref in result.new_objects if "/k/" in ref.key]
    assert [parse_envelope(vault.store.get(ref)).session_id for ref in envelopes] == [result.session_id]


def test_a_session_that_stores_no_block_stores_no_envelope() -> None:
    vault = Vault()
    image = bytearray(noise(50_000))
    first = vault.write(image)
    image[512:5120] = bytes(4608)

    second = vault.write(image, base=first)

    assert [ref.key.split("/")[4] for ref in second.new_objects] == ["i"]
    assert vault.restored(second.manifest) == image
