"""The recovery key: what a tenant prints once, and with which the bucket alone is enough to restore.

    version [1] | tenant private key [32] | fingerprint of the catalogue key [32] | checksum [6]

On paper: six lines of four groups of five characters (Crockford's base32). The last character of a line checks the
line and its place, so that a slip of the pen is found in its line; the checksum covers everything.

A test of the key never shows it to the service: the service seals random bytes to the tenant's public key, and who
holds the key answers with a short code made from them.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite

from engine.codec import KEY_SIZE, SHA256_SIZE
from engine.crypto import RandomBytes, tenant_key_from_private
from engine.errors import EngineError
from engine.hashing import derive_key

LINE_COUNT = 6
LINE_LENGTH = 20
_GROUP_LENGTH = 5
_TEXT_LENGTH_MAX = 4096
_VERSION = 1
_CHECKSUM_SIZE = 6
_BODY_SIZE = 1 + KEY_SIZE + SHA256_SIZE
_CHECKSUM_PREFIX = b"backupsite recovery key v1"

_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_DIGITS = {character: value for value, character in enumerate(_ALPHABET)} | {"O": 0, "I": 1, "L": 1}
_PADDING_BITS = LINE_COUNT * (LINE_LENGTH - 1) * 5 - (_BODY_SIZE + _CHECKSUM_SIZE) * 8

_CHALLENGE_VERSION = b"\x01"
_CHALLENGE_SECRET_SIZE = 16
CHALLENGE_SIZE = len(_CHALLENGE_VERSION) + KEY_SIZE + _CHALLENGE_SECRET_SIZE + 16  # encapsulated key, secret, tag
_CHALLENGE_INFO = b"backupsite recovery test v1"
_ANSWER_LENGTH = 12
_SUITE = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)


class RecoveryKeyError(EngineError):
    """The text is not a recovery key. `line` and `group` (from 1) say where, when that is known."""

    default_code = "bad_recovery_key"

    def __init__(self, message: str, *, line: int | None = None, group: int | None = None, code: str = "") -> None:
        super().__init__(message, code=code or None)
        self.line = line
        self.group = group


class ChallengeError(EngineError):
    """The challenge is damaged, or was made for another key."""

    default_code = "bad_challenge"


@dataclass(frozen=True, slots=True)
class RecoveryKey:
    """The tenant's private key (X25519, 32 bytes) and the SHA-256 of the tenant's catalogue key (Ed25519, public)."""

    tenant_private_key: bytes = field(repr=False)
    catalogue_fingerprint: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if len(self.tenant_private_key) != KEY_SIZE or len(self.catalogue_fingerprint) != SHA256_SIZE:
            raise RecoveryKeyError("a recovery key holds a private key and a fingerprint of 32 bytes each")

    @classmethod
    def generate(cls, *, catalogue_fingerprint: bytes, random_bytes: RandomBytes) -> RecoveryKey:
        return cls(random_bytes(KEY_SIZE), catalogue_fingerprint)

    @property
    def tenant_public_key(self) -> bytes:
        return tenant_key_from_private(self.tenant_private_key).public

    def encode(self) -> str:
        """Six lines, for paper."""
        body = bytes([_VERSION]) + self.tenant_private_key + self.catalogue_fingerprint
        number = int.from_bytes(body + _checksum(body), "big") << _PADDING_BITS
        digits = _digits_of(number, LINE_COUNT * (LINE_LENGTH - 1))
        lines = [digits[start : start + LINE_LENGTH - 1] for start in range(0, len(digits), LINE_LENGTH - 1)]
        return "\n".join(_line_text([*line, _check_digit(place, line)]) for place, line in enumerate(lines, 1))

    @classmethod
    def decode(cls, text: str) -> RecoveryKey:
        """Forgives case, spaces, dashes, O for 0, I and L for 1. Lines that start with # are ignored.

        Raises RecoveryKeyError, with the line and the group to look at where they can be told.
        """
        lines = _lines_of(text)
        wrong = [place for place, line in enumerate(lines, 1) if not _line_fits(place, line)]
        if wrong:
            raise _line_error(lines, wrong)
        raw = _bytes_of(lines)
        if raw is None:
            raise RecoveryKeyError("the recovery key's checksum does not fit: compare every line with the paper")
        if raw[0] != _VERSION:
            message = f"this is a recovery key of version {raw[0]}: use a newer version of this program"
            raise RecoveryKeyError(message, code="recovery_key_version")
        return cls(raw[1 : 1 + KEY_SIZE], raw[1 + KEY_SIZE :])


def check_line(place: int, text: str) -> None:
    """Raise RecoveryKeyError unless `text` is a sound line number `place` (from 1): to ask for it again at once."""
    line = _digits_from(text, place)
    if len(line) != LINE_LENGTH:
        raise _length_error(place, len(line))
    if not _line_fits(place, line):
        raise RecoveryKeyError(f"line {place} has a wrong character: compare it with the paper", line=place)


def _checksum(body: bytes) -> bytes:
    return hashlib.sha256(_CHECKSUM_PREFIX + body).digest()[:_CHECKSUM_SIZE]


def _digits_of(number: int, count: int) -> list[int]:
    return [number >> 5 * place & 31 for place in reversed(range(count))]


def _line_text(line: Sequence[int]) -> str:
    text = "".join(_ALPHABET[digit] for digit in line)
    return " ".join(text[start : start + _GROUP_LENGTH] for start in range(0, len(text), _GROUP_LENGTH))


def _check_digit(place: int, digits: Sequence[int]) -> int:
    """A polynomial over GF(32): finds every single wrong digit, every swap of two, and a line in the wrong place."""
    check = place
    for digit in digits:
        check = _times_two(check) ^ digit
    return _times_two(check)


def _times_two(value: int) -> int:
    return value << 1 ^ (0b100101 if value & 16 else 0)


def _line_fits(place: int, line: Sequence[int]) -> bool:
    return _check_digit(place, line[:-1]) == line[-1]


def _lines_of(text: str) -> list[list[int]]:
    """Six lines of 20 digits, however the text was broken into lines."""
    if len(text) > _TEXT_LENGTH_MAX:
        raise RecoveryKeyError("this is too long to be a recovery key")
    rows = [row for row in text.splitlines() if row.strip() and not row.lstrip().startswith("#")]
    if len(rows) == LINE_COUNT:
        lines = [_digits_from(row, place) for place, row in enumerate(rows, 1)]
        for place, line in enumerate(lines, 1):
            if len(line) != LINE_LENGTH:
                raise _length_error(place, len(line))
        return lines
    digits = _digits_from(" ".join(rows), None)
    if len(digits) != LINE_COUNT * LINE_LENGTH:
        expected = f"{LINE_COUNT} lines of {LINE_LENGTH} characters"
        raise RecoveryKeyError(f"a recovery key has {expected}; here are {len(digits)} characters in all")
    return [digits[start : start + LINE_LENGTH] for start in range(0, len(digits), LINE_LENGTH)]


def _digits_from(text: str, place: int | None) -> list[int]:
    characters = [character for character in text.upper() if not (character.isspace() or character in "-‐‑–—_")]
    for number, character in enumerate(characters):
        if character not in _DIGITS:
            line = place or number // LINE_LENGTH + 1
            group = number % LINE_LENGTH // _GROUP_LENGTH + 1
            message = f"line {line}, group {group} has a character that no recovery key has: compare it with the paper"
            raise RecoveryKeyError(message, line=line, group=group)
    return [_DIGITS[character] for character in characters]


def _length_error(place: int, length: int) -> RecoveryKeyError:
    return RecoveryKeyError(f"line {place} has {length} characters instead of {LINE_LENGTH}", line=place)


def _bytes_of(lines: Sequence[Sequence[int]]) -> bytes | None:
    """Version, key and fingerprint; None when padding or checksum do not fit."""
    number = 0
    for line in lines:
        for digit in line[:-1]:
            number = number << 5 | digit
    raw = (number >> _PADDING_BITS).to_bytes(_BODY_SIZE + _CHECKSUM_SIZE, "big")
    has_padding = number & ((1 << _PADDING_BITS) - 1)
    fits = hmac.compare_digest(_checksum(raw[:_BODY_SIZE]), raw[_BODY_SIZE:])
    return raw[:_BODY_SIZE] if fits and not has_padding else None


def _line_error(lines: Sequence[list[int]], wrong: Sequence[int]) -> RecoveryKeyError:
    if len(wrong) > 1:
        places = ", ".join(str(place) for place in wrong)
        return RecoveryKeyError(f"lines {places} have wrong characters: compare them with the paper", line=wrong[0])
    place = wrong[0]
    group = _wrong_group(lines, place)
    where = f"line {place}, group {group}" if group else f"line {place}"
    return RecoveryKeyError(f"{where} has a wrong character: compare it with the paper", line=place, group=group)


def _wrong_group(lines: Sequence[list[int]], place: int) -> int | None:
    """The group in which one other character, or one swap, makes the whole key fit. It is named, never mended."""
    for position, mended in _mendings(lines[place - 1]):
        candidate = [*lines[: place - 1], mended, *lines[place:]]
        if _line_fits(place, mended) and _bytes_of(candidate) is not None:
            return position // _GROUP_LENGTH + 1
    return None


def _mendings(line: list[int]) -> Iterator[tuple[int, list[int]]]:
    for position in range(LINE_LENGTH):
        for digit in range(32):
            yield position, [*line[:position], digit, *line[position + 1 :]]
    for position in range(LINE_LENGTH - 1):
        yield position, [*line[:position], line[position + 1], line[position], *line[position + 2 :]]


# --- the test of a recovery key ---------------------------------------------------------------------------------------


def make_challenge(tenant_public_key: bytes, random_bytes: RandomBytes) -> tuple[bytes, bytes]:
    """What the service shows, and the digest [32] that it keeps to compare the answer with. ChallengeError."""
    secret = random_bytes(_CHALLENGE_SECRET_SIZE)
    try:
        sealed = _SUITE.encrypt(secret, X25519PublicKey.from_public_bytes(tenant_public_key), _CHALLENGE_INFO)
    except ValueError as error:
        raise ChallengeError("the tenant's public key is not a sound X25519 key") from error
    return _CHALLENGE_VERSION + sealed, _answer_digest(_answer_code(secret))


def answer_challenge(recovery_key: RecoveryKey, challenge: bytes) -> str:
    """The short code to type back, such as `7K2M-Q9TD-04XV`. ChallengeError for another key or a damaged challenge."""
    if len(challenge) != CHALLENGE_SIZE or challenge[:1] != _CHALLENGE_VERSION:
        raise ChallengeError("this is not a challenge: copy it again, all of it")
    private = X25519PrivateKey.from_private_bytes(recovery_key.tenant_private_key)
    try:
        secret = _SUITE.decrypt(challenge[1:], private, _CHALLENGE_INFO)
    except (InvalidTag, ValueError) as error:
        raise ChallengeError("the challenge was made for another recovery key, or was not copied whole") from error
    code = _answer_code(secret)
    return "-".join(code[start : start + 4] for start in range(0, _ANSWER_LENGTH, 4))


def is_answer(typed: str, expected_digest: bytes) -> bool:
    """Whether the typed code is the answer; forgives what `decode` forgives. Constant in time."""
    try:
        digits = _digits_from(typed[:_TEXT_LENGTH_MAX], None)
    except RecoveryKeyError:
        return False
    code = "".join(_ALPHABET[digit] for digit in digits)
    return hmac.compare_digest(_answer_digest(code), expected_digest)


def encode_challenge(challenge: bytes) -> str:
    return base64.b64encode(challenge).decode("ascii")


def decode_challenge(text: str) -> bytes:
    """Forgives line breaks and spaces. ChallengeError."""
    try:
        challenge = base64.b64decode("".join(text[:_TEXT_LENGTH_MAX].split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise ChallengeError("this is not a challenge: copy it again, all of it") from error
    if len(challenge) != CHALLENGE_SIZE:
        raise ChallengeError("this is not a challenge: copy it again, all of it")
    return challenge


def _answer_code(secret: bytes) -> str:
    number = int.from_bytes(derive_key("recovery test answer", secret), "big") >> 256 - 5 * _ANSWER_LENGTH
    return "".join(_ALPHABET[digit] for digit in _digits_of(number, _ANSWER_LENGTH))


def _answer_digest(code: str) -> bytes:
    return hashlib.sha256(_CHALLENGE_INFO + code.encode("ascii")).digest()
