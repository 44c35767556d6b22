"""Sealing of one record (a block, a map page, a record table, the sealed part of a manifest).

content_id = keyed BLAKE3 of the plaintext, record key = PRF(content_id), nonce = hash(random salt, payload).
So one (key, nonce) pair is reused only for byte-identical payload, even by a cloned machine that draws the
same random bytes or by another version of the compressor. Nothing names the object a record lies in: the
ciphertext can move to another pack without a key.
"""

from __future__ import annotations

import hmac
import struct
from dataclasses import dataclass
from enum import IntEnum

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from engine.codec import BLOCK_SIZE_MAX, FORMAT_VERSION, TAG_SIZE, pack_text
from engine.compression import Compressor, decompress
from engine.errors import FormatError, IntegrityError
from engine.hashing import derive_key, keyed_hash, nonce_hash

_AAD_TAIL = struct.Struct(">32sIB")  # content id, plain length, compression


class RecordType(IntEnum):
    BLOCK = 1
    PAGE = 2
    TABLE = 3
    MANIFEST = 4
    RELOCATION = 5
    TREE = 6


@dataclass(frozen=True, slots=True)
class SealedRecord:
    content_id: bytes
    nonce: bytes
    plain_length: int
    compression: int
    payload: bytes


class RecordSealer:
    """Seals and opens records of one type in one domain. Immutable, hence thread-safe."""

    def __init__(self, *, record_type: RecordType, tenant: str, domain: str, id_key: bytes, secret: bytes) -> None:
        name = record_type.name.lower()
        self._id_key = id_key
        self._record_secret = derive_key(f"{name} record key", secret)
        self._nonce_secret = derive_key(f"{name} nonce", secret)
        self._aad_head = bytes([FORMAT_VERSION, record_type]) + pack_text(tenant) + pack_text(domain)

    def content_id(self, plain: bytes | memoryview) -> bytes:
        return keyed_hash(self._id_key, plain)

    def seal(
        self, plain: bytes | memoryview, *, content_id: bytes, salt: bytes, compressor: Compressor
    ) -> SealedRecord:
        compression, packed = compressor.compress(plain)
        nonce = nonce_hash(self._nonce_secret, salt, packed)
        aad = self._aad(content_id, len(plain), compression)
        payload = AESGCM(self._record_key(content_id)).encrypt(nonce, packed, aad)
        return SealedRecord(content_id, nonce, len(plain), int(compression), payload)

    def seal_verified(
        self, plain: bytes | memoryview, *, content_id: bytes, salt: bytes, compressor: Compressor
    ) -> SealedRecord:
        """Seal, then open again, so that a fault of the compressor or the machine is found before sending."""
        record = self.seal(plain, content_id=content_id, salt=salt, compressor=compressor)
        self.open(record)
        return record

    def open(self, record: SealedRecord) -> bytes:
        """The plaintext; IntegrityError unless key, context, length and content id all fit."""
        if not 0 <= record.plain_length <= BLOCK_SIZE_MAX or len(record.payload) < TAG_SIZE:
            raise FormatError("a record's lengths are out of bounds")
        aad = self._aad(record.content_id, record.plain_length, record.compression)
        try:
            packed = AESGCM(self._record_key(record.content_id)).decrypt(record.nonce, record.payload, aad)
        except InvalidTag as error:
            raise IntegrityError("a record failed authentication") from error
        plain = decompress(packed, compression=record.compression, plain_length=record.plain_length)
        if not hmac.compare_digest(self.content_id(plain), record.content_id):
            raise IntegrityError("a record's content does not match its id")
        return plain

    def _record_key(self, content_id: bytes) -> bytes:
        return keyed_hash(self._record_secret, content_id)

    def _aad(self, content_id: bytes, plain_length: int, compression: int) -> bytes:
        return self._aad_head + _AAD_TAIL.pack(content_id, plain_length, compression)


def block_sealer(*, tenant: str, domain: str, id_key: bytes, data_key: bytes) -> RecordSealer:
    return RecordSealer(record_type=RecordType.BLOCK, tenant=tenant, domain=domain, id_key=id_key, secret=data_key)


def map_sealer(record_type: RecordType, *, tenant: str, domain: str, map_key: bytes) -> RecordSealer:
    """For everything a writing host may read again: pages, record tables, the sealed part of a manifest."""
    id_key = derive_key(f"{record_type.name.lower()} id", map_key)
    return RecordSealer(record_type=record_type, tenant=tenant, domain=domain, id_key=id_key, secret=map_key)
