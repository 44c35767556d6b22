"""Whatever is altered in the vault is noticed: no altered byte ever becomes restored data."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

import pytest

from engine.crypto import check_commitment
from engine.envelope import parse_envelope, unwrap_envelope
from engine.errors import DamagedError, EngineError, IntegrityError, KeyMismatchError, SignatureError
from engine.manifest import parse_manifest
from engine.pack import NO_WRITER, parse_container
from engine.relocations import parse_relocations
from engine.restore import RestoreKeys
from engine.sealing import RecordSealer, RecordType, SealedRecord, block_sealer, map_sealer
from engine.store.base import ObjectKind, ObjectRef, fetch_whole
from tests.engine.restoring import repacked, restore
from tests.engine.support import (
    BLOCK_SIZE,
    DOMAIN,
    TENANT,
    ImageTarget,
    PatchedSource,
    Vault,
    noise,
    seeded_bytes,
)

_FLIPS_PER_KIND = 2000  # of five kinds of objects: 10,000 in all
_FLIPS_PER_RESTORE = 200


def _image() -> bytes:
    return noise(30 * BLOCK_SIZE) + b"text " * 2000 + bytes(9 * BLOCK_SIZE) + noise(100, "tail")


def _flip(data: bytes, bit: int) -> bytes:
    flipped = bytearray(data)
    flipped[bit // 8] ^= 1 << (bit % 8)
    return bytes(flipped)


def _table_sealer(vault: Vault):
    return map_sealer(RecordType.TABLE, tenant=TENANT, domain=DOMAIN, map_key=vault.domain_keys.map_key)


@dataclass
class Opener:
    """Opens any object of one vault with all keys, as deep as a reader with these keys can."""

    vault: Vault
    keys: RestoreKeys

    def open(self, kind: str, data: bytes) -> None:
        if kind in "pi":
            self._open_container(kind, data)
        elif kind == "m":
            parse_manifest(data, trusted_writers=[self.vault.writer_key.public], map_key=self.vault.domain_keys.map_key)
        elif kind == "k":
            unwrap_envelope(data, tenant_private_key=self.vault.tenant_key.private, tenant=TENANT, domain=DOMAIN)
        else:
            parse_relocations(data, tenant=TENANT, domain=DOMAIN, map_key=self.vault.domain_keys.map_key)

    def _open_container(self, kind: str, data: bytes) -> None:
        info = parse_container(data, kind=ObjectKind(kind), table_sealer=_table_sealer(self.vault))
        if info.session_id != NO_WRITER:
            check_commitment(self._secret(kind, info.session_id), info.key_commitment)
        for record in info.records:
            payload = data[record.offset : record.offset + record.record_length]
            facts = (record.content_id, record.nonce, record.plain_length, record.compression)
            self._sealer(kind, record.session_id).open(SealedRecord(*facts, payload))

    def _secret(self, kind: str, session_id: bytes) -> bytes:
        return self.vault.domain_keys.map_key if kind == "i" else self.keys.data_keys[session_id]

    def _sealer(self, kind: str, session_id: bytes) -> RecordSealer:
        secret = self._secret(kind, session_id)
        if kind == "i":
            return map_sealer(RecordType.PAGE, tenant=TENANT, domain=DOMAIN, map_key=secret)
        return block_sealer(tenant=TENANT, domain=DOMAIN, id_key=self.vault.domain_keys.id_key, data_key=secret)


@pytest.mark.parametrize("kind", ["p", "i", "m", "k", "r"])
def test_every_flipped_bit_is_noticed_without_a_key_and_with_all_keys(kind: str) -> None:
    vault, generator = Vault(), random.Random(kind)
    result = vault.write(_image())
    moved, _ = repacked(vault, result.manifest)
    opener = Opener(vault, vault.keys_for(result.manifest))
    all_refs = [*result.new_objects, result.manifest, *moved.packs, *moved.relocations]
    refs = [ref for ref in all_refs if f"/{kind}/" in ref.key]
    stored = {ref.key: vault.store.get(ref) for ref in refs}
    for data in stored.values():
        opener.open(kind, data)

    found_by_hash = found_by_key = 0
    for _ in range(_FLIPS_PER_KIND):
        ref = generator.choice(refs)
        flipped = _flip(stored[ref.key], generator.randrange(ref.size_bytes * 8))
        with pytest.raises(IntegrityError):
            fetch_whole(PatchedSource(vault.store, {ref.key: flipped}), ref, size_max=1 << 20)
        found_by_hash += 1
        with pytest.raises(EngineError):
            opener.open(kind, flipped)
        found_by_key += 1

    assert found_by_hash == found_by_key == _FLIPS_PER_KIND


@pytest.mark.parametrize("what", ["pack", "segment", "moved pack"])
def test_a_flipped_bit_never_becomes_restored_data_and_is_told_exactly(what: str) -> None:
    vault, generator = Vault(), random.Random(what)
    image = _image()
    result = vault.write(image)
    moved, relocations = repacked(vault, result.manifest)
    keys = vault.keys_for(result.manifest)
    options: dict[str, Any] = {"keys": keys}
    refs = [ref for ref in result.new_objects if f"/{'i' if what == 'segment' else 'p'}/" in ref.key]
    if what == "moved pack":
        options |= {"relocations": relocations, "gone_packs": [bytes.fromhex(ref.sha256) for ref in refs]}
        refs = moved.packs
    harmful = 0

    for _ in range(_FLIPS_PER_RESTORE):
        ref = generator.choice(refs)
        flipped = _flip(vault.store.get(ref), generator.randrange(ref.size_bytes * 8))
        target = ImageTarget(len(image))
        damaged: tuple[tuple[int, int], ...] = ()
        try:
            source = PatchedSource(vault.store, {ref.key: flipped})
            restore(vault, result.manifest, target, object_source=source, **options)
        except DamagedError as error:
            damaged = error.ranges
        expected = bytearray(image)
        for offset, length in damaged:
            expected[offset : offset + length] = b"\xa5" * length
        assert target.data == expected
        harmful += bool(damaged)
    # The others lie in a header, record table or trailer, which a restore does not read.
    assert 0 < harmful < _FLIPS_PER_RESTORE


def test_every_flipped_bit_of_a_manifest_is_refused_even_under_its_own_new_name() -> None:
    vault, generator = Vault(), random.Random(2)
    result = vault.write(_image())
    keys = vault.keys_for(result.manifest)
    data = vault.store.get(result.manifest)

    for _ in range(_FLIPS_PER_RESTORE):
        flipped = _flip(data, generator.randrange(len(data) * 8))
        renamed = _renamed(result.manifest, flipped)
        target = ImageTarget(len(_image()))
        with pytest.raises(EngineError):
            vault.restore(renamed, target, keys=keys, source=PatchedSource(vault.store, {renamed.key: flipped}))
        assert target.writes == 0


def _renamed(ref: ObjectRef, data: bytes) -> ObjectRef:
    from engine.hashing import sha256_hex

    sha256 = sha256_hex(data)
    return ObjectRef(ref.key.replace(ref.sha256, sha256), sha256, len(data), ref.version_id)


def _sealed_block(vault: Vault, plain: bytes = b"plain" * 20) -> tuple[SealedRecord, bytes]:
    from engine.compression import Compressor

    data_key = noise(32, "dek")
    sealer = block_sealer(tenant=TENANT, domain=DOMAIN, id_key=vault.domain_keys.id_key, data_key=data_key)
    record = sealer.seal(plain, content_id=sealer.content_id(plain), salt=noise(16), compressor=Compressor(1))
    assert sealer.open(record) == plain
    return record, data_key


@pytest.mark.parametrize(("tenant", "domain"), [("other", DOMAIN), (TENANT, "other"), (TENANT + DOMAIN[0], DOMAIN[1:])])
def test_a_record_does_not_open_in_another_tenant_or_domain(tenant: str, domain: str) -> None:
    vault = Vault()
    record, data_key = _sealed_block(vault)
    sealer = block_sealer(tenant=tenant, domain=domain, id_key=vault.domain_keys.id_key, data_key=data_key)

    with pytest.raises(IntegrityError):
        sealer.open(record)


@pytest.mark.parametrize("record_type", [RecordType.PAGE, RecordType.TABLE, RecordType.MANIFEST, RecordType.RELOCATION])
def test_a_record_does_not_open_as_another_type(record_type: RecordType) -> None:
    from engine.sealing import RecordSealer

    vault = Vault()
    record, data_key = _sealed_block(vault)
    sealer = RecordSealer(
        record_type=record_type,
        tenant=TENANT,
        domain=DOMAIN,
        id_key=vault.domain_keys.id_key,
        secret=data_key,
    )

    with pytest.raises(IntegrityError):
        sealer.open(record)


def test_the_type_is_bound_by_the_associated_data_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Even if both types shared one key, the type in the associated data would separate them."""
    from engine.sealing import RecordSealer

    vault = Vault()
    monkeypatch.setattr("engine.sealing.derive_key", lambda purpose, secret: noise(32, "same"))
    record, data_key = _sealed_block(vault)
    sealer = RecordSealer(
        record_type=RecordType.PAGE,
        tenant=TENANT,
        domain=DOMAIN,
        id_key=vault.domain_keys.id_key,
        secret=data_key,
    )

    with pytest.raises(IntegrityError):
        sealer.open(record)


@pytest.mark.parametrize("field", ["content_id", "nonce", "plain_length", "compression"])
def test_a_record_does_not_open_with_another_description(field: str) -> None:
    from dataclasses import replace

    vault = Vault()
    record, data_key = _sealed_block(vault)
    sealer = block_sealer(tenant=TENANT, domain=DOMAIN, id_key=vault.domain_keys.id_key, data_key=data_key)
    value = getattr(record, field)
    changed = value + 1 if isinstance(value, int) else bytes([value[0] ^ 1]) + value[1:]

    with pytest.raises(IntegrityError):
        sealer.open(replace(record, **{field: changed}))


def test_a_record_does_not_open_when_its_content_has_another_id() -> None:
    """The id is recomputed: a writer that seals other bytes under a known id is found out."""
    from engine.compression import Compressor

    vault = Vault()
    sealer = block_sealer(tenant=TENANT, domain=DOMAIN, id_key=vault.domain_keys.id_key, data_key=noise(32, "dek"))
    forged = sealer.seal(b"evil", content_id=sealer.content_id(b"good"), salt=noise(16), compressor=Compressor(None))

    with pytest.raises(IntegrityError):
        sealer.open(forged)


def test_a_wrong_data_key_is_refused_before_any_write() -> None:
    vault = Vault()
    result = vault.write(_image())
    keys = RestoreKeys(domain=vault.domain_keys, data_keys={result.session_id: noise(32, "wrong")})
    target = ImageTarget(len(_image()))

    with pytest.raises(KeyMismatchError):
        vault.restore(result.manifest, target, keys=keys)

    assert target.writes == 0


def test_a_missing_data_key_is_refused_before_any_write() -> None:
    vault = Vault()
    result = vault.write(_image())
    target = ImageTarget(len(_image()))

    with pytest.raises(KeyMismatchError):
        vault.restore(result.manifest, target, keys=RestoreKeys(domain=vault.domain_keys, data_keys={}))

    assert target.writes == 0


def test_a_wrong_map_key_is_refused() -> None:
    from engine.crypto import DomainKeys

    vault = Vault()
    result = vault.write(_image())
    keys = vault.keys_for(result.manifest)
    wrong = DomainKeys(id_key=keys.domain.id_key, map_key=noise(32, "wrong"))

    with pytest.raises(IntegrityError):
        vault.restore(
            result.manifest, ImageTarget(len(_image())), keys=RestoreKeys(domain=wrong, data_keys=keys.data_keys)
        )


def test_a_manifest_of_an_unknown_writer_is_refused() -> None:
    from engine.crypto import generate_writer_key
    from engine.repository import open_manifest

    vault = Vault()
    result = vault.write(_image())

    with pytest.raises(SignatureError):
        open_manifest(
            manifest_ref=result.manifest,
            object_source=vault.store,
            trusted_writers=[generate_writer_key().public],
        )


def test_a_manifest_under_the_key_of_another_sequence_is_refused() -> None:
    from engine.repository import open_manifest

    vault = Vault()
    result = vault.write(_image())
    moved = ObjectRef(
        result.manifest.key.replace("0001-", "0009-"), result.manifest.sha256, result.manifest.size_bytes, None
    )
    source = PatchedSource(vault.store, {moved.key: vault.store.get(result.manifest)})

    with pytest.raises(IntegrityError):
        open_manifest(manifest_ref=moved, object_source=source, trusted_writers=[vault.writer_key.public])


def test_an_envelope_with_another_keys_commitment_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from engine.crypto import SessionKeys
    from engine.envelope import seal_envelope

    vault = Vault()
    session = SessionKeys(session_id=noise(16), data_key=noise(32))
    monkeypatch.setattr(SessionKeys, "commitment", property(lambda _: noise(32, "other")))
    envelope = seal_envelope(
        session=session,
        domain_keys=vault.domain_keys,
        tenant=TENANT,
        domain=DOMAIN,
        tenant_public_key=vault.tenant_key.public,
    )

    with pytest.raises(KeyMismatchError, match="commitment"):
        unwrap_envelope(envelope, tenant_private_key=vault.tenant_key.private, tenant=TENANT, domain=DOMAIN)


@pytest.mark.parametrize(("tenant", "domain"), [("other", DOMAIN), (TENANT, "other")])
def test_an_envelope_opens_only_for_its_tenant_and_domain(tenant: str, domain: str) -> None:
    vault = Vault()
    result = vault.write(_image())
    envelope = next(vault.store.get(ref) for ref in result.new_objects if "/k/" in ref.key)

    with pytest.raises(KeyMismatchError):
        unwrap_envelope(envelope, tenant_private_key=vault.tenant_key.private, tenant=tenant, domain=domain)


def test_an_envelope_renamed_to_another_tenant_does_not_open() -> None:
    """The clear names are bound by the wrapping, not only compared."""
    vault = Vault()
    result = vault.write(_image())
    envelope = next(vault.store.get(ref) for ref in result.new_objects if "/k/" in ref.key)
    renamed = envelope.replace(TENANT.encode(), b"evil", 1)
    assert parse_envelope(renamed).tenant == "evil"

    with pytest.raises(KeyMismatchError):
        unwrap_envelope(renamed, tenant_private_key=vault.tenant_key.private, tenant="evil", domain=DOMAIN)


@pytest.mark.case("AG-07")
def test_an_unknown_required_feature_is_refused() -> None:
    import msgspec

    from engine.compression import Compressor
    from engine.errors import UnsupportedError
    from engine.manifest import build_manifest, parse_manifest

    vault = Vault()
    body = vault.open(vault.write(b"").manifest).body
    newer = msgspec.structs.replace(body, required_features=["fixed-blocks", "time-travel"])
    data = build_manifest(
        newer,
        root=None,
        source_facts={},
        map_key=vault.domain_keys.map_key,
        writer_key=vault.writer_key,
        salt=noise(16),
        compressor=Compressor(1),
    )

    with pytest.raises(UnsupportedError, match="time-travel"):
        parse_manifest(data, trusted_writers=[vault.writer_key.public])


def test_an_unknown_version_is_refused() -> None:
    from engine.errors import UnsupportedError
    from engine.manifest import parse_manifest

    vault = Vault()
    data = bytearray(vault.store.get(vault.write(b"").manifest))
    data[7] = 2

    with pytest.raises(UnsupportedError):
        parse_manifest(bytes(data), trusted_writers=[vault.writer_key.public])


def test_nonces_never_repeat_under_one_key() -> None:
    vault = Vault()
    image = noise(60 * BLOCK_SIZE)
    results = [vault.write(image), vault.write(noise(60 * BLOCK_SIZE, "b"))]

    seen: set[tuple[bytes, bytes, bytes]] = set()
    count = 0
    for result in results:
        for ref in result.new_objects:
            kind = ref.key.split("/")[4]
            if kind not in "pi":
                continue
            info = parse_container(vault.store.get(ref), kind=ObjectKind(kind), table_sealer=_table_sealer(vault))
            for record in info.records:
                seen.add((info.key_commitment, record.content_id, record.nonce))
                count += 1
    assert len(seen) == count > 120


def test_a_clone_with_the_same_random_bytes_shares_no_nonce_for_other_bytes() -> None:
    """Two machines resumed from one snapshot draw the same keys, session id and salts."""
    from engine.compression import Compressor

    plain = b"the same block, packed by two versions of a compressor " * 9
    data_key, id_key = noise(32, "dek"), noise(32, "id")
    sealer = block_sealer(tenant=TENANT, domain=DOMAIN, id_key=id_key, data_key=data_key)
    salt = seeded_bytes("clone")(16)
    content_id = sealer.content_id(plain)

    records = [
        sealer.seal(plain, content_id=content_id, salt=salt, compressor=Compressor(level)) for level in (None, 1, 19)
    ]

    payloads = {record.payload for record in records}
    assert len({record.nonce for record in records}) == len(payloads) >= 2
    assert sealer.seal(plain, content_id=content_id, salt=salt, compressor=Compressor(1)) == records[1]


def test_equal_salts_for_different_blocks_use_different_keys() -> None:
    from engine.compression import Compressor

    sealer = block_sealer(tenant=TENANT, domain=DOMAIN, id_key=noise(32, "id"), data_key=noise(32, "dek"))
    one, other = (
        sealer.seal(plain, content_id=sealer.content_id(plain), salt=bytes(16), compressor=Compressor(None))
        for plain in (bytes(100), b"\1" * 100)
    )

    difference = bytes(a ^ b for a, b in zip(one.payload, other.payload, strict=True))
    assert difference[:100] != b"\1" * 100
    assert one.nonce != other.nonce


def test_keys_are_in_no_repr() -> None:
    vault = Vault()
    result = vault.write(noise(5000))
    keys = vault.keys_for(result.manifest)
    shown = repr([keys, vault.context(), vault.tenant_key, vault.writer_key, vault.domain_keys])

    secrets = [vault.tenant_key.private, vault.writer_key.private, *keys.data_keys.values()]
    secrets += [vault.domain_keys.id_key, vault.domain_keys.map_key]
    for secret in secrets:
        assert repr(secret)[2:-1] not in shown
