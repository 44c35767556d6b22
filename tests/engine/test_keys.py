"""Keys, sealed records and envelopes: every wrong size, wrong key and changed byte is refused, and nothing is shown."""

from __future__ import annotations

import os
import struct
from dataclasses import replace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite
from hypothesis import given
from hypothesis import strategies as st

from engine import crypto
from engine.codec import BLOCK_SIZE_MAX, KEY_SIZE, SESSION_ID_SIZE
from engine.compression import Compressor
from engine.crypto import (
    DomainKeys,
    SessionKeys,
    check_commitment,
    generate_domain_keys,
    generate_session_keys,
    generate_tenant_key,
    generate_writer_key,
    key_fingerprint,
    sign,
    tenant_key_from_private,
    verify_signature,
    writer_key_from_private,
)
from engine.envelope import ENVELOPE_SIZE_MAX, parse_envelope, seal_envelope, unwrap_envelope
from engine.errors import EngineError, FormatError, IntegrityError, KeyMismatchError, SignatureError, UnsupportedError
from engine.sealing import RecordSealer, RecordType, block_sealer, map_sealer

TENANT = generate_tenant_key()
SESSION = generate_session_keys(os.urandom)
DOMAIN = generate_domain_keys(os.urandom)
NAMES = {"tenant": "tenant-a", "domain": "domain-b"}
ENVELOPE = seal_envelope(session=SESSION, domain_keys=DOMAIN, tenant_public_key=TENANT.public, **NAMES)
COMPRESSOR = Compressor(1)
PLAIN = b"some plain bytes " * 40


def open_envelope(data: bytes, **changes: Any) -> Any:
    return unwrap_envelope(data, **{"tenant_private_key": TENANT.private, **NAMES, **changes})


# --- sizes and halves -------------------------------------------------------------------------------------------------

SIZED = {
    "id_key": lambda key: DomainKeys(id_key=key, map_key=bytes(KEY_SIZE)),
    "map_key": lambda key: DomainKeys(id_key=bytes(KEY_SIZE), map_key=key),
    "data_key": lambda key: SessionKeys(session_id=bytes(SESSION_ID_SIZE), data_key=key),
    "tenant private key": tenant_key_from_private,
    "writer private key": writer_key_from_private,
}


@pytest.mark.parametrize("name", SIZED)
@pytest.mark.parametrize("size", [0, KEY_SIZE - 1, KEY_SIZE + 1])
def test_a_key_of_another_size_is_none(name: str, size: int) -> None:
    with pytest.raises(KeyMismatchError, match=f"{name} must have {KEY_SIZE} bytes"):
        SIZED[name](bytes(size))


def test_a_session_id_of_another_size_is_none() -> None:
    with pytest.raises(KeyMismatchError, match="session_id"):
        SessionKeys(session_id=b"x", data_key=bytes(KEY_SIZE))


@pytest.mark.parametrize("key", [TENANT, generate_writer_key(), DOMAIN, SESSION], ids=lambda key: type(key).__name__)
def test_no_secret_is_in_what_a_log_would_show(key: Any) -> None:
    secrets = [getattr(key, name) for name in ("private", "id_key", "map_key", "data_key") if hasattr(key, name)]

    shown = f"{key!r} {key}"

    assert secrets
    for secret in secrets:
        assert repr(secret) not in shown and secret.hex() not in shown


def test_halves_belong_together_and_each_key_is_another() -> None:
    writer = generate_writer_key()

    assert tenant_key_from_private(TENANT.private) == TENANT
    assert writer_key_from_private(writer.private) == writer
    assert writer.fingerprint == key_fingerprint(writer.public) == writer_key_from_private(writer.private).fingerprint
    assert len({generate_tenant_key().public for _ in range(8)} | {writer.public}) == 9


def test_a_commitment_fits_its_key_alone() -> None:
    check_commitment(SESSION.data_key, SESSION.commitment)
    with pytest.raises(KeyMismatchError):
        check_commitment(DOMAIN.id_key, SESSION.commitment)
    with pytest.raises(KeyMismatchError):
        check_commitment(SESSION.data_key, SESSION.commitment[:-1])


# --- signatures -------------------------------------------------------------------------------------------------------


def test_only_a_trusted_writer_s_own_signature_counts() -> None:
    writer, other = generate_writer_key(), generate_writer_key()
    signature = sign(writer, b"message")
    told = {"message": b"message", "signature": signature, "fingerprint": writer.fingerprint}

    assert verify_signature(trusted=[other.public, writer.public], **told) == writer.public
    for changes in (
        {"trusted": [other.public]},
        {"trusted": []},
        {"trusted": [other.public], "fingerprint": other.fingerprint},
        {"trusted": [writer.public], "message": b"messagE"},
        {"trusted": [writer.public], "signature": signature[:-1]},
        {"trusted": [writer.public], "signature": bytes(64)},
    ):
        with pytest.raises(SignatureError):
            verify_signature(**{**told, **changes})


def test_a_registered_key_that_is_no_key_verifies_nothing() -> None:
    with pytest.raises(SignatureError):
        verify_signature(message=b"m", signature=bytes(64), fingerprint=key_fingerprint(b"x"), trusted=[b"x"])


# --- records ----------------------------------------------------------------------------------------------------------


def sealed(sealer: RecordSealer, plain: bytes = PLAIN) -> Any:
    content_id = sealer.content_id(plain)
    return sealer.seal_verified(plain, content_id=content_id, salt=b"s" * 16, compressor=COMPRESSOR)


def blocks(**changes: Any) -> RecordSealer:
    return block_sealer(**{**NAMES, "id_key": DOMAIN.id_key, "data_key": SESSION.data_key, **changes})


def test_a_record_opens_in_its_place_alone() -> None:
    record = sealed(blocks())
    assert blocks().open(record) == PLAIN

    for stranger in (
        blocks(tenant="tenant-b"),
        blocks(domain="domain-a"),
        blocks(data_key=bytes(KEY_SIZE)),
        blocks(id_key=bytes(KEY_SIZE)),
        map_sealer(RecordType.PAGE, map_key=SESSION.data_key, **NAMES),
    ):
        with pytest.raises(IntegrityError):
            stranger.open(record)


def test_a_record_of_one_type_is_none_of_another() -> None:
    page = map_sealer(RecordType.PAGE, map_key=DOMAIN.map_key, **NAMES)
    for other in set(RecordType) - {RecordType.PAGE, RecordType.BLOCK}:
        with pytest.raises(IntegrityError):
            map_sealer(other, map_key=DOMAIN.map_key, **NAMES).open(sealed(page))


def test_a_content_id_that_is_not_the_content_s_is_found_before_sending() -> None:
    """As a fault of the machine between hashing and sealing would leave it."""
    with pytest.raises(IntegrityError, match="does not match its id"):
        blocks().seal_verified(PLAIN, content_id=bytes(32), salt=b"s" * 16, compressor=COMPRESSOR)


@pytest.mark.parametrize(
    "changes", [{"plain_length": -1}, {"plain_length": BLOCK_SIZE_MAX + 1}, {"payload": b"x" * 15}, {"payload": b""}]
)
def test_lengths_out_of_bounds_are_refused_before_anything_is_opened(changes: dict[str, Any]) -> None:
    with pytest.raises(FormatError, match="out of bounds"):
        blocks().open(replace(sealed(blocks()), **changes))


@given(place=st.integers(0, 10_000), bit=st.integers(0, 7), what=st.sampled_from(["payload", "nonce", "content_id"]))
def test_no_flipped_bit_goes_unseen(place: int, bit: int, what: str) -> None:
    record = sealed(blocks())
    data = bytearray(getattr(record, what))
    data[place % len(data)] ^= 1 << bit

    with pytest.raises(IntegrityError):
        blocks().open(replace(record, **{what: bytes(data)}))


@given(plain_length=st.integers(0, BLOCK_SIZE_MAX), compression=st.integers(0, 255))
def test_length_and_compression_are_authenticated(plain_length: int, compression: int) -> None:
    record = sealed(blocks())
    if (plain_length, compression) == (record.plain_length, record.compression):
        return

    with pytest.raises(IntegrityError):
        blocks().open(replace(record, plain_length=plain_length, compression=compression))


def test_the_same_salt_never_makes_one_nonce_for_two_contents() -> None:
    """A cloned machine draws the same random bytes."""
    records = [sealed(blocks(), plain) for plain in (PLAIN, PLAIN + b"!", b"", b"other")]

    assert len({record.nonce for record in records}) == len(records)


# --- envelopes --------------------------------------------------------------------------------------------------------


def test_an_envelope_gives_back_exactly_what_was_put_in() -> None:
    opened = open_envelope(ENVELOPE)

    assert (opened.session, opened.domain) == (SESSION, DOMAIN)
    info = parse_envelope(ENVELOPE)
    assert (info.recipient, info.session_id) == (key_fingerprint(TENANT.public), SESSION.session_id)
    assert info.wrapped.hex() not in repr(info) and repr(info.wrapped) not in repr(info)


@given(place=st.integers(0, len(ENVELOPE) - 1), bit=st.integers(0, 7))
def test_no_changed_bit_of_an_envelope_opens(place: int, bit: int) -> None:
    changed = bytearray(ENVELOPE)
    changed[place] ^= 1 << bit

    with pytest.raises(EngineError):
        open_envelope(bytes(changed))


@given(length=st.integers(0, len(ENVELOPE) - 1), tail=st.binary(min_size=1, max_size=8))
def test_an_envelope_that_is_cut_or_longer_is_none(length: int, tail: bytes) -> None:
    for data in (ENVELOPE[:length], ENVELOPE + tail):
        with pytest.raises(FormatError):
            parse_envelope(data)


def test_one_that_is_too_large_is_not_even_read() -> None:
    with pytest.raises(FormatError, match="too large"):
        parse_envelope(bytes(ENVELOPE_SIZE_MAX + 1))


@pytest.mark.parametrize(("flags", "algorithm"), [(1, 1), (0, 2), (1 << 31, 1)])
def test_what_a_later_version_may_ask_for_is_refused(flags: int, algorithm: int) -> None:
    with pytest.raises(UnsupportedError):
        parse_envelope(ENVELOPE[:8] + struct.pack(">IB", flags, algorithm) + ENVELOPE[13:])


@pytest.mark.parametrize(
    "changes",
    [{"tenant": "tenant-b"}, {"domain": "domain-a"}, {"tenant_private_key": generate_tenant_key().private}],
    ids=["tenant", "domain", "key"],
)
def test_an_envelope_opens_for_its_own_tenant_domain_and_key_alone(changes: dict[str, Any]) -> None:
    with pytest.raises(KeyMismatchError):
        open_envelope(ENVELOPE, **changes)


def test_a_wrapped_text_moved_to_another_session_does_not_open() -> None:
    """The session is bound by HPKE's info: what was wrapped for one opens under no other name."""
    moved = ENVELOPE.replace(SESSION.session_id, bytes(SESSION_ID_SIZE))
    assert moved != ENVELOPE

    with pytest.raises(KeyMismatchError, match="could not be opened"):
        open_envelope(moved)


def forged(secret: bytes, commitment: bytes) -> bytes:
    """As anybody can make one who knows the tenant's public key."""
    info = replace(parse_envelope(ENVELOPE), commitment=commitment)
    suite = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)
    wrapped = suite.encrypt(secret, X25519PublicKey.from_public_bytes(TENANT.public), info.info)
    head = ENVELOPE.index(SESSION.commitment)
    return ENVELOPE[:head] + commitment + info.recipient + wrapped


def test_a_key_that_does_not_fit_its_commitment_is_refused() -> None:
    with pytest.raises(KeyMismatchError, match="commitment"):
        open_envelope(forged(bytes(3 * KEY_SIZE), SESSION.commitment))


def test_it_must_hold_three_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lengths are checked where they are cut, not only where they are parsed."""
    short = forged(bytes(2 * KEY_SIZE), SESSION.commitment)
    with pytest.raises(FormatError):
        open_envelope(short)
    monkeypatch.setattr("engine.envelope._WRAPPED_SIZE", KEY_SIZE + 2 * KEY_SIZE + 16)

    with pytest.raises(FormatError, match="three keys"):
        open_envelope(short)


def test_the_commitment_of_two_keys_differs() -> None:
    assert crypto.key_commitment(bytes(KEY_SIZE)) != crypto.key_commitment(bytes(KEY_SIZE - 1) + b"\1")
