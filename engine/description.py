"""Domain descriptions (`c/`): all that a stranger with the recovery key needs beyond manifests.

    header | body length | body (msgpack, clear) | sealed length | sealed section | catalogue key | signature

Signed by the tenant's catalogue key, whose fingerprint is in the recovery key; the signature is checked before anything
is decoded. A manifest is trusted if and only if its writer's key is in the newest valid description of its domain, so
all writers that were ever trusted stay listed. A description is never changed: the highest sequence wins, and an
older one that somebody stores again is ignored.
"""

from __future__ import annotations

import hmac
import struct
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar

import msgspec

from engine.codec import (
    CONTENT_ID_SIZE,
    FORMAT_VERSION,
    KEY_SIZE,
    NONCE_SIZE,
    OBJECT_HEADER,
    ByteReader,
    check_header,
    check_name,
    pack_header,
)
from engine.compression import Compressor
from engine.crypto import WriterKey, key_fingerprint, sign, verify_signature
from engine.errors import EngineError, FormatError, IntegrityError, SignatureError, UnsupportedError
from engine.hashing import derive_key, sha256_hex
from engine.sealing import RecordSealer, RecordType, SealedRecord, map_sealer
from engine.store.base import ObjectKind, ObjectRef, ObjectSource, fetch_whole, object_key

_Decoded = TypeVar("_Decoded")

DESCRIPTION_SIZE_MAX = 1024 * 1024
KNOWN_FEATURES: frozenset[str] = frozenset()
_ITEMS_MAX = 4096
_TEXT_LENGTH_MAX = 255
_SIGNATURE_SIZE = 64
_TAIL_SIZE = KEY_SIZE + _SIGNATURE_SIZE
_SEALED_HEAD = struct.Struct(f">IB{NONCE_SIZE}s{CONTENT_ID_SIZE}s")  # plain length, compression, nonce, id


class DiskLabel(msgspec.Struct, frozen=True, kw_only=True):
    """What people call a source. latest_sequence: the newest manifest known when the description was written."""

    source_id: str
    number: int
    name: str
    size_bytes: int
    latest_sequence: int = 0


class VaultFacts(msgspec.Struct, frozen=True, kw_only=True):
    region: str
    immutable_days: int


class Labels(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """`present_owner`: the tenant to whom the server with these backups was moved; absent while it was not."""

    tenant_title: str
    server_name: str
    disks: list[DiskLabel]
    vault: VaultFacts
    definitions: list[str]
    present_owner: str = ""


class DescriptionBody(msgspec.Struct, frozen=True, kw_only=True):
    """The clear part. `writers`: public keys (Ed25519, 32 bytes) whose manifests are trusted in this domain."""

    format_version: int
    required_features: list[str]
    tenant: str
    domain: str
    sequence: int
    created_at: str
    writers: list[bytes]


@dataclass(frozen=True, slots=True)
class DomainDescription:
    """A description whose signature was checked. Without the map key, `labels` stays None."""

    body: DescriptionBody
    labels: Labels | None
    sha256: str

    @property
    def created_at(self) -> datetime:
        return datetime.fromisoformat(self.body.created_at)


def build_description(
    *,
    tenant: str,
    domain: str,
    sequence: int,
    created_at: datetime,
    writers: Collection[bytes],
    labels: Labels,
    map_key: bytes,
    catalogue_key: WriterKey,
    salt: bytes,
    compressor: Compressor,
    previous: DomainDescription | None = None,
) -> bytes:
    """The bytes to store as `c/`. With the `previous` one given, EngineError unless this one may follow it."""
    body = DescriptionBody(
        format_version=FORMAT_VERSION,
        required_features=[],
        tenant=tenant,
        domain=domain,
        sequence=sequence,
        created_at=created_at.isoformat(),
        writers=sorted(set(writers)),
    )
    _check_body(body)
    _check_labels(labels)
    if previous is not None:
        _check_follows(body, previous.body)
    raw_body = msgspec.msgpack.encode(body)
    sealed = _seal(labels, _label_sealer(body, map_key), salt=salt, compressor=compressor)
    message = b"".join(
        [
            pack_header(ObjectKind.CONFIG.value),
            len(raw_body).to_bytes(4, "big"),
            raw_body,
            len(sealed).to_bytes(4, "big"),
            sealed,
            catalogue_key.public,
        ]
    )
    if len(message) + _SIGNATURE_SIZE > DESCRIPTION_SIZE_MAX:
        raise FormatError("the description is too large", code="description_too_large")
    return message + sign(catalogue_key, message)


def parse_description(data: bytes, *, catalogue_fingerprint: bytes, map_key: bytes | None = None) -> DomainDescription:
    """Verify and decode. Raises SignatureError, UnsupportedError, FormatError, IntegrityError."""
    if not OBJECT_HEADER.size + _TAIL_SIZE <= len(data) <= DESCRIPTION_SIZE_MAX:
        raise FormatError("the description's size is out of bounds")
    check_header(data, ObjectKind.CONFIG.value)
    _check_signature(data, catalogue_fingerprint)
    reader = ByteReader(memoryview(data)[OBJECT_HEADER.size : -_TAIL_SIZE], what="description")
    body = _decode(reader.take(reader.number(4)), _BODIES)
    sealed = reader.take(reader.number(4))
    reader.expect_end()
    _check_body(body)
    labels = _open_labels(sealed, _label_sealer(body, map_key)) if map_key is not None else None
    return DomainDescription(body, labels, sha256_hex(data))


def open_description(
    *,
    description_ref: ObjectRef,
    object_source: ObjectSource,
    catalogue_fingerprint: bytes,
    map_key: bytes | None = None,
) -> DomainDescription:
    """Fetch and verify one: bytes against name, signature, version, and key against content."""
    data = fetch_whole(object_source, description_ref, size_max=DESCRIPTION_SIZE_MAX)
    found = parse_description(data, catalogue_fingerprint=catalogue_fingerprint, map_key=map_key)
    if description_key(found.body, sha256=found.sha256) != description_ref.key:
        raise IntegrityError("the description is stored under a key that is not its own")
    return found


def description_key(body: DescriptionBody, *, sha256: str) -> str:
    return object_key(tenant=body.tenant, domain=body.domain, kind=ObjectKind.CONFIG, sha256=sha256)


def newest_description(descriptions: Iterable[DomainDescription]) -> DomainDescription | None:
    """The one that counts among valid ones of one domain; the order in which they were found does not matter."""
    # Two of one sequence can only come from a catalogue that was set back; then the later one, the same for everybody.
    return max(descriptions, key=lambda item: (item.body.sequence, item.created_at, item.sha256), default=None)


def _check_follows(body: DescriptionBody, previous: DescriptionBody) -> None:
    if (body.tenant, body.domain) != (previous.tenant, previous.domain):
        raise EngineError("the earlier description is one of another domain", code="other_domain")
    if body.sequence <= previous.sequence:
        raise EngineError("the sequence of descriptions must ascend", code="sequence_not_ascending")
    if not set(previous.writers) <= set(body.writers):
        raise EngineError("a writer that was trusted must stay listed, or its backups are lost", code="writer_dropped")


def _check_signature(data: bytes, catalogue_fingerprint: bytes) -> None:
    signed_end = len(data) - _SIGNATURE_SIZE
    public = data[signed_end - KEY_SIZE : signed_end]
    if not hmac.compare_digest(key_fingerprint(public), catalogue_fingerprint):
        raise SignatureError("the description was signed by another catalogue key", code="untrusted_catalogue")
    verify_signature(
        message=memoryview(data)[:signed_end],
        signature=data[signed_end:],
        fingerprint=catalogue_fingerprint,
        trusted=[public],
    )


# Made here and not where something is read: msgspec crashes when two threads read the first one of a type at once.
_BODIES = msgspec.msgpack.Decoder(DescriptionBody)
_SECTIONS = msgspec.msgpack.Decoder(Labels)


def _decode(raw: bytes, decoder: msgspec.msgpack.Decoder[_Decoded]) -> _Decoded:
    try:
        return decoder.decode(raw)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise FormatError("a section of the description cannot be decoded") from error


def _check_body(body: DescriptionBody) -> None:
    if body.format_version != FORMAT_VERSION:
        raise UnsupportedError(f"description version {body.format_version} is not supported")
    unknown = sorted(set(body.required_features) - KNOWN_FEATURES)
    if unknown:
        raise UnsupportedError("the description needs features that are not known", code="unknown_feature")
    check_name(body.tenant)
    check_name(body.domain)
    if not 0 <= body.sequence < 1 << 63:
        raise FormatError("the description's sequence is out of bounds")
    if not _has_zone(body.created_at):
        raise FormatError("the description's time must have a time zone")
    if len(body.writers) > _ITEMS_MAX or len(set(body.writers)) != len(body.writers):
        raise FormatError("the description lists too many writers, or one twice")
    if any(len(writer) != KEY_SIZE for writer in body.writers):
        raise FormatError("a writer's public key has 32 bytes")


def _has_zone(text: str) -> bool:
    try:
        return len(text) <= _TEXT_LENGTH_MAX and datetime.fromisoformat(text).tzinfo is not None
    except ValueError:
        return False


def _check_labels(labels: Labels) -> None:
    if labels.present_owner:
        check_name(labels.present_owner)
    if max(len(labels.disks), len(labels.definitions)) > _ITEMS_MAX:
        raise FormatError("the description has too many labels")
    names = [disk.name for disk in labels.disks]
    texts = [labels.tenant_title, labels.server_name, labels.vault.region, *labels.definitions, *names]
    if any(len(text) > _TEXT_LENGTH_MAX for text in texts):
        raise FormatError(f"a label of the description has more than {_TEXT_LENGTH_MAX} characters")
    for disk in labels.disks:
        check_name(disk.source_id)
        if min(disk.number, disk.size_bytes, disk.latest_sequence) < 0:
            raise FormatError("a number of the description is out of bounds")
    if labels.vault.immutable_days < 0:
        raise FormatError("a number of the description is out of bounds")


def _label_sealer(body: DescriptionBody, map_key: bytes) -> RecordSealer:
    # A secret of its own: the sealed section of a manifest can never pass for labels, nor the other way round.
    secret = derive_key("description", map_key)
    return map_sealer(RecordType.MANIFEST, tenant=body.tenant, domain=body.domain, map_key=secret)


def _seal(labels: Labels, sealer: RecordSealer, *, salt: bytes, compressor: Compressor) -> bytes:
    plain = msgspec.msgpack.encode(labels)
    record = sealer.seal_verified(plain, content_id=sealer.content_id(plain), salt=salt, compressor=compressor)
    head = _SEALED_HEAD.pack(record.plain_length, record.compression, record.nonce, record.content_id)
    return head + record.payload


def _open_labels(sealed: bytes, sealer: RecordSealer) -> Labels:
    reader = ByteReader(sealed, what="sealed section")
    plain_length, compression, nonce, content_id = _SEALED_HEAD.unpack(reader.take(_SEALED_HEAD.size))
    payload = reader.take(reader.left)
    record = SealedRecord(content_id, nonce, plain_length, compression, payload)
    labels = _decode(sealer.open(record), _SECTIONS)
    _check_labels(labels)
    return labels
