"""Signatures of requests: whatever is changed breaks them, and each header has one form."""

from __future__ import annotations

import base64
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.signing import Proof, is_in_time, is_signed_by, read_header, sign_request
from engine.crypto import generate_writer_key

KEY = generate_writer_key()
AGENT = UUID("018f2f6e-0000-7000-8000-000000000001")
ASKED: dict[str, Any] = {"method": "POST", "path": "/agent/v1/heartbeat/?a=1", "body": b'{"version": "1"}'}
PATHS = st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=100).map(lambda text: f"/{text}")


def signed(**changes: Any) -> str:
    told = {"agent_id": AGENT, "time_seconds": 1_800_000_000, "nonce": bytes(16), **ASKED, **changes}
    return sign_request(private_key=KEY.private, **told)


def proof_of(header: str) -> Proof:
    found = read_header(header)
    assert found is not None
    return found


@given(
    method=st.sampled_from(["GET", "POST"]),
    path=PATHS,
    body=st.binary(max_size=200),
    nonce=st.binary(min_size=16, max_size=16),
)
def test_what_is_signed_is_read_again(method: str, path: str, body: bytes, nonce: bytes) -> None:
    proof = proof_of(signed(method=method, path=path, body=body, nonce=nonce))

    assert (proof.agent_id, proof.time_seconds) == (AGENT, 1_800_000_000)
    assert is_signed_by(KEY.public, proof, method=method, path=path, body=body)


@pytest.mark.parametrize(
    "changed",
    [
        {"method": "GET"},
        {"path": "/agent/v1/heartbeat/?a=2"},
        {"path": "/agent/v1/heartbeat/"},
        {"path": "/agent/v1/me/"},
        {"body": b'{"version": "2"}'},
        {"body": b""},
    ],
)
def test_a_signature_fits_one_request_only(changed: dict[str, Any]) -> None:
    proof = proof_of(signed())

    assert is_signed_by(KEY.public, proof, **ASKED)
    assert not is_signed_by(KEY.public, proof, **{**ASKED, **changed})


@pytest.mark.parametrize(
    ("part", "other"),
    [
        ("time_seconds", 1_800_000_001),
        ("nonce", base64.urlsafe_b64encode(bytes([1]) * 16).rstrip(b"=").decode()),
        ("agent_id", UUID("018f2f6e-0000-7000-8000-000000000002")),
        ("signature", bytes(64)),
    ],
)
def test_no_part_of_the_header_can_be_changed(part: str, other: Any) -> None:
    proof = proof_of(signed())
    values = {name: getattr(proof, name) for name in ("agent_id", "time_seconds", "nonce", "signature")}

    assert not is_signed_by(KEY.public, Proof(**{**values, part: other}), **ASKED)


def test_another_key_signs_nothing_here() -> None:
    assert not is_signed_by(generate_writer_key().public, proof_of(signed()), **ASKED)
    assert not is_signed_by(b"short", proof_of(signed()), **ASKED)


@given(st.text(max_size=450))
def test_any_text_is_read_or_is_none_of_ours(text: str) -> None:
    assert read_header(text) is None
    assert read_header(f"Backupsite-Agent {text}") is None


@given(st.integers(0, 330), st.sampled_from('"=, -_AaZz09\x00\n'))
def test_a_changed_header_is_refused_or_does_not_verify(place: int, sign: str) -> None:
    header = signed()
    place %= len(header)
    changed = header[:place] + sign + header[place + 1 :]
    proof = read_header(changed)

    assert changed == header or proof is None or not is_signed_by(KEY.public, proof, **ASKED)


def test_a_header_has_one_form() -> None:
    header = signed()

    for other in (
        header + " ",
        header.replace(", ", ","),
        header.replace("Backupsite-Agent", "backupsite-agent"),
        f"{header}, x",
    ):
        assert read_header(other) is None
    assert read_header(header.replace(str(AGENT), str(AGENT).upper())) is None


def test_lines_cannot_be_smuggled_in() -> None:
    for path in ("/a b", "/a\nb", "/\u00e9", "/" + "a" * 2000):
        with pytest.raises(ValueError, match="one line"):
            signed(path=path)
    with pytest.raises(ValueError, match="16 bytes"):
        signed(nonce=b"short")


@pytest.mark.parametrize(("apart", "fits"), [(0, True), (300, True), (-300, True), (301, False), (-301, False)])
def test_the_window_is_five_minutes(apart: int, fits: bool) -> None:
    assert is_in_time(proof_of(signed()), now_seconds=1_800_000_000 + apart) is fits
