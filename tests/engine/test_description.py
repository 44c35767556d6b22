"""Domain descriptions: what a stranger with the recovery key may believe."""

from __future__ import annotations

import hashlib
import struct
import tracemalloc
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.codec import pack_header
from engine.compression import Compressor
from engine.crypto import WriterKey, key_fingerprint, sign, writer_key_from_private
from engine.description import (
    DESCRIPTION_SIZE_MAX,
    DescriptionBody,
    DiskLabel,
    DomainDescription,
    Labels,
    VaultFacts,
    build_description,
    description_key,
    newest_description,
    open_description,
    parse_description,
)
from engine.errors import EngineError, FormatError, IntegrityError, SignatureError, UnsupportedError
from engine.hashing import sha256_hex
from engine.manifest import parse_manifest
from engine.store.base import ObjectRef
from engine.store.memory import ModelStore
from tests.engine.support import DOMAIN, NOW, TENANT, Vault, noise

CATALOGUE_KEY = writer_key_from_private(noise(32, "catalogue"))
FINGERPRINT = key_fingerprint(CATALOGUE_KEY.public)
MAP_KEY = noise(32, "map")
WRITERS = [noise(32, "writer 1"), noise(32, "writer 2")]
LABELS = Labels(
    tenant_title="Acme GmbH",
    server_name="web01",
    disks=[DiskLabel(source_id="disk-0", number=1, name="vda", size_bytes=1 << 40, latest_sequence=7)],
    vault=VaultFacts(region="RBX", immutable_days=14),
    definitions=["daily", "weekly"],
)
_SETTINGS = settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))


def build(**changes: Any) -> bytes:
    values: dict[str, Any] = {
        "tenant": TENANT,
        "domain": DOMAIN,
        "sequence": 3,
        "created_at": NOW,
        "writers": WRITERS,
        "labels": LABELS,
        "map_key": MAP_KEY,
        "catalogue_key": CATALOGUE_KEY,
        "salt": noise(16, "salt"),
        "compressor": Compressor(1),
    }
    return build_description(**values | changes)


def parse(data: bytes, **changes: Any) -> DomainDescription:
    return parse_description(data, **{"catalogue_fingerprint": FINGERPRINT, "map_key": MAP_KEY} | changes)


SAMPLE = build()


def signed(body: Any, *, sealed: bytes = b"", after: bytes = b"", key: WriterKey = CATALOGUE_KEY) -> bytes:
    """A description with any content that was nevertheless signed by the right key."""
    raw = body if isinstance(body, bytes) else msgspec.msgpack.encode(body)
    parts = [pack_header("c"), struct.pack(">I", len(raw)), raw, struct.pack(">I", len(sealed)), sealed, after]
    message = b"".join(parts) + key.public
    return message + sign(key, message)


def body_of(**changes: Any) -> DescriptionBody:
    return msgspec.structs.replace(parse(SAMPLE).body, **changes)


def test_what_was_described_comes_back() -> None:
    found = parse(SAMPLE)

    assert found.labels == LABELS
    assert (found.body.tenant, found.body.domain, found.body.sequence) == (TENANT, DOMAIN, 3)
    assert found.body.writers == sorted(WRITERS)
    assert found.created_at == NOW
    assert found.sha256 == hashlib.sha256(SAMPLE).hexdigest()


def test_without_the_map_key_the_writers_are_known_and_the_labels_are_not() -> None:
    found = parse(SAMPLE, map_key=None)

    assert found.body.writers == sorted(WRITERS)
    assert found.labels is None


@pytest.mark.parametrize("secret", [b"Acme", b"web01", b"vda", b"RBX", b"daily"])
def test_labels_are_not_in_the_clear(secret: bytes) -> None:
    assert secret not in build(compressor=Compressor(None))


def test_another_catalogue_key_is_not_believed() -> None:
    forged = build(catalogue_key=writer_key_from_private(noise(32, "attacker")))

    with pytest.raises(SignatureError) as caught:
        parse(forged)

    assert caught.value.code == "untrusted_catalogue"


def test_the_right_public_key_with_another_signature_is_not_believed() -> None:
    attacker = writer_key_from_private(noise(32, "attacker"))
    message = SAMPLE[: -64 - 32] + CATALOGUE_KEY.public

    with pytest.raises(SignatureError):
        parse(message + sign(attacker, message))


def test_another_map_key_opens_no_labels() -> None:
    with pytest.raises(IntegrityError):
        parse(SAMPLE, map_key=noise(32, "another"))


def test_labels_of_another_domain_do_not_pass() -> None:
    other = build(domain="server-2")
    raw_length = struct.unpack_from(">I", other, 8)[0]
    sealed = other[12 + raw_length + 4 : -96]

    with pytest.raises(IntegrityError):
        parse(signed(body_of(), sealed=sealed))


def test_the_sealed_section_of_a_manifest_is_no_label() -> None:
    vault = Vault()
    manifest = vault.store.get(vault.write(noise(2000)).manifest)
    parse_manifest(manifest, trusted_writers=[vault.writer_key.public], map_key=MAP_KEY)
    raw_length = struct.unpack_from(">I", manifest, 8)[0]
    sealed = manifest[12 + raw_length + 4 : -96]

    with pytest.raises(IntegrityError):
        parse(signed(body_of(), sealed=sealed))


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ({"format_version": 2}, UnsupportedError),
        ({"required_features": ["shamir"]}, UnsupportedError),
        ({"tenant": "../other"}, FormatError),
        ({"domain": ""}, FormatError),
        ({"sequence": -1}, FormatError),
        ({"sequence": 1 << 63}, FormatError),
        ({"created_at": "2026-01-02T03:04:05"}, FormatError),
        ({"created_at": "yesterday"}, FormatError),
        ({"created_at": "2026-01-02T03:04:05+00:00" + " " * 300}, FormatError),
        ({"writers": [bytes(31)]}, FormatError),
        ({"writers": [bytes(32), bytes(32)]}, FormatError),
        ({"writers": [number.to_bytes(32, "big") for number in range(4097)]}, FormatError),
    ],
)
def test_a_signed_body_is_still_checked(body: dict[str, Any], error: type[EngineError]) -> None:
    with pytest.raises(error):
        parse(signed(body_of(**body)), map_key=None)


@pytest.mark.parametrize(
    "labels",
    [
        {"tenant_title": "x" * 256},
        {"definitions": ["x" * 256]},
        {"definitions": ["x"] * 4097},
        {"disks": [DiskLabel(source_id="..", number=1, name="", size_bytes=0)]},
        {"disks": [DiskLabel(source_id="d", number=-1, name="", size_bytes=0)]},
        {"disks": [DiskLabel(source_id="d", number=1, name="x" * 256, size_bytes=0)]},
        {"vault": VaultFacts(region="x" * 256, immutable_days=1)},
        {"vault": VaultFacts(region="x", immutable_days=-1)},
    ],
)
def test_labels_out_of_bounds_are_neither_written_nor_read(
    labels: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = msgspec.structs.replace(LABELS, **labels)
    with pytest.raises(FormatError):
        build(labels=wrong)
    with monkeypatch.context() as patch:
        patch.setattr("engine.description._check_labels", lambda _: None)
        data = build(labels=wrong)

    with pytest.raises(FormatError):
        parse(data)


def test_unknown_fields_are_ignored() -> None:
    raw = msgspec.msgpack.decode(msgspec.msgpack.encode(body_of()))

    assert parse(signed(raw | {"hint": "from the future"}), map_key=None).body == body_of()


# --- which one counts -------------------------------------------------------------------------------------------------


def test_the_highest_sequence_counts_and_a_republished_older_one_does_not() -> None:
    older, newer = parse(build(sequence=4)), parse(build(sequence=5, created_at=NOW - timedelta(days=1)))

    assert newest_description([older, newer, older]) == newer
    assert newest_description([newer, older]) == newer
    assert newest_description([]) is None


def test_of_one_sequence_everybody_takes_the_same() -> None:
    first, second = parse(build()), parse(build(created_at=NOW + timedelta(seconds=1)))
    third = parse(build(created_at=NOW + timedelta(seconds=1), writers=WRITERS[:1]))

    chosen = {newest_description(order).sha256 for order in ([first, second, third], [third, second, first])}

    assert len(chosen) == 1
    assert first.sha256 not in chosen


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"sequence": 3}, "sequence_not_ascending"),
        ({"sequence": 4, "writers": WRITERS[:1]}, "writer_dropped"),
        ({"sequence": 4, "domain": "server-2"}, "other_domain"),
    ],
)
def test_a_description_that_would_lose_trust_is_not_written(changes: dict[str, Any], code: str) -> None:
    with pytest.raises(EngineError) as caught:
        build(**changes, previous=parse(SAMPLE))

    assert caught.value.code == code


def test_a_description_may_add_writers() -> None:
    added = parse(build(sequence=4, writers=[*WRITERS, noise(32, "third")], previous=parse(SAMPLE)))

    assert set(added.body.writers) > set(WRITERS)


# --- in a store -------------------------------------------------------------------------------------------------------


def _stored(store: ModelStore, data: bytes, **changes: Any) -> ObjectRef:
    body = msgspec.structs.replace(parse(data).body, **changes)
    key = description_key(body, sha256=sha256_hex(data))
    return store.put(key=key, data=data, sha256=sha256_hex(data))


def _open(store: ModelStore, ref: ObjectRef) -> DomainDescription:
    return open_description(description_ref=ref, object_source=store, catalogue_fingerprint=FINGERPRINT)


def test_a_stored_description_opens() -> None:
    store = ModelStore(now=lambda: datetime.now(UTC))

    assert _open(store, _stored(store, SAMPLE)).body == parse(SAMPLE).body


def test_a_description_under_the_key_of_another_domain_is_refused() -> None:
    store = ModelStore(now=lambda: datetime.now(UTC))
    ref = _stored(store, SAMPLE, domain="server-2")

    with pytest.raises(IntegrityError, match="not its own"):
        _open(store, ref)


def test_altered_bytes_are_refused() -> None:
    store = ModelStore(now=lambda: datetime.now(UTC))
    ref = _stored(store, SAMPLE)

    with pytest.raises(IntegrityError, match="do not match its name"):
        _open(store, replace(ref, sha256="0" * 64))


# --- garbage ----------------------------------------------------------------------------------------------------------


def test_every_truncation_and_every_byte_too_many_is_refused() -> None:
    for length in range(len(SAMPLE)):
        with pytest.raises(EngineError):
            parse(SAMPLE[:length])
    with pytest.raises(EngineError):
        parse(SAMPLE + b"\0")


def test_every_flipped_bit_is_found() -> None:
    for position in range(len(SAMPLE)):
        flipped = bytearray(SAMPLE)
        flipped[position] ^= 1 << position % 8
        with pytest.raises(EngineError):
            parse(bytes(flipped))


@_SETTINGS
@given(st.binary(max_size=400), st.booleans())
def test_garbage_is_refused(garbage: bytes, with_header: bool) -> None:
    with pytest.raises(EngineError):
        parse((pack_header("c") if with_header else b"") + garbage)


@_SETTINGS
@given(st.binary(max_size=300), st.binary(max_size=200), st.binary(max_size=3))
def test_signed_garbage_is_refused(body: bytes, sealed: bytes, after: bytes) -> None:
    """Also when the catalogue key itself signed nonsense, nothing but EngineError comes out."""
    with pytest.raises(EngineError):
        parse(signed(body, sealed=sealed, after=after))


@_SETTINGS
@given(st.binary(max_size=300))
def test_a_garbage_sealed_section_is_refused(sealed: bytes) -> None:
    with pytest.raises(EngineError):
        parse(signed(body_of(), sealed=sealed))


def test_lengths_that_lie_allocate_nothing() -> None:
    huge = struct.pack(">I", 0xFFFFFFFF)
    message = pack_header("c") + huge + b"\xdd" + huge + CATALOGUE_KEY.public
    lying = message + sign(CATALOGUE_KEY, message)
    array = signed(b"\xdd" + huge)
    nested = signed(b"\x91" * 100_000)
    tracemalloc.start()

    for data in (lying, array, nested, bytes(DESCRIPTION_SIZE_MAX + 1)):
        with pytest.raises(EngineError):
            parse(data)

    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * DESCRIPTION_SIZE_MAX


def test_a_description_too_large_to_be_read_is_not_written() -> None:
    disks = [
        DiskLabel(source_id=f"d{number}", number=number, name=noise(127, str(number)).hex(), size_bytes=0)
        for number in range(4096)
    ]
    labels = msgspec.structs.replace(LABELS, disks=disks, definitions=[noise(127, f"{n}").hex() for n in range(4096)])

    with pytest.raises(FormatError) as caught:
        build(labels=labels, compressor=Compressor(None))

    assert caught.value.code == "description_too_large"
