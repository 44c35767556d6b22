"""Manifests (`m/`): the last object of a backup, its commit point, and the list of what a restore needs.

    header | body length | body (msgpack, clear) | sealed length | sealed section | fingerprint | signature

The signature is checked over the raw bytes before any of them is decoded. The body is enough for the control
plane (no key); the sealed section holds the root of the map and facts about the source. `content` says what is
below the root: the block map of a disk image, the chunks of a stream, or the entries of a file tree.
"""

from __future__ import annotations

import struct
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec

from engine.codec import (
    CONTENT_ID_SIZE,
    FORMAT_VERSION,
    NONCE_SIZE,
    OBJECT_HEADER,
    OBJECT_SIZE_MAX,
    SESSION_ID_SIZE,
    SHA256_SIZE,
    ByteReader,
    check_header,
    check_name,
    pack_header,
)
from engine.compression import Compressor
from engine.crypto import WriterKey, sign, verify_signature
from engine.errors import FormatError, UnsupportedError
from engine.index import NO_SESSION, MapEntry, ceil_div, check_geometry, check_location, resolve, tree_height
from engine.sealing import RecordSealer, RecordType, SealedRecord, map_sealer
from engine.store.base import ObjectKind, ObjectRef, manifest_key, object_key

_Decoded = TypeVar("_Decoded")

CONTENT_DISK = "disk"
CONTENT_STREAM = "stream"
CONTENT_TREE = "tree"
FEATURE_OF_CONTENT = {CONTENT_DISK: "fixed-blocks", CONTENT_STREAM: "chunk-stream", CONTENT_TREE: "file-tree"}
KNOWN_FEATURES = frozenset(FEATURE_OF_CONTENT.values())
_SIGNATURE_SIZE = 64
_TAIL_SIZE = SHA256_SIZE + _SIGNATURE_SIZE
_SEALED_HEAD = struct.Struct(f">IB{NONCE_SIZE}s{CONTENT_ID_SIZE}s")  # plain length, compression, nonce, id


class ObjectEntry(msgspec.Struct, array_like=True, frozen=True):
    """One object the restore needs. use_count: map entries (pack) or pages (segment) that lie in it."""

    sha256: bytes
    size_bytes: int
    version_id: str | None
    use_count: int


class SessionEntry(msgspec.Struct, array_like=True, frozen=True):
    """One session whose data key the restore needs, and the envelope that holds it."""

    session_id: bytes
    commitment: bytes
    envelope: ObjectEntry
    use_count: int


class ManifestBody(msgspec.Struct, frozen=True, kw_only=True):
    format_version: int
    required_features: list[str]
    content: str
    tenant: str
    domain: str
    source_id: str
    sequence: int
    previous_sha256: bytes | None
    created_at: str
    size_bytes: int
    block_size: int
    fan_out: int
    counters: dict[str, int]
    sessions: list[SessionEntry]
    packs: list[ObjectEntry]
    segments: list[ObjectEntry]

    @property
    def block_count(self) -> int:
        if self.content != CONTENT_DISK:
            raise UnsupportedError("the backup holds no disk image", code="other_content")
        return ceil_div(self.size_bytes, self.block_size)

    @property
    def height(self) -> int:
        """Level of the block map's root; UnsupportedError for a backup that is no disk image."""
        return tree_height(self.block_count, self.fan_out)

    def object_ref(self, kind: ObjectKind, entry: ObjectEntry) -> ObjectRef:
        sha256 = entry.sha256.hex()
        key = object_key(tenant=self.tenant, domain=self.domain, kind=kind, sha256=sha256)
        return ObjectRef(key, sha256, entry.size_bytes, entry.version_id)

    def needed_refs(self) -> list[ObjectRef]:
        """Every object but the manifest itself that a restore reads."""
        return [
            *(self.object_ref(ObjectKind.PACK, entry) for entry in self.packs),
            *(self.object_ref(ObjectKind.INDEX, entry) for entry in self.segments),
            *(self.object_ref(ObjectKind.KEY, entry.envelope) for entry in self.sessions),
        ]


class _RootEntry(msgspec.Struct, array_like=True, frozen=True):
    object_sha256: bytes
    offset: int
    record_length: int
    plain_length: int
    compression: int
    nonce: bytes
    content_id: bytes


class _SealedSection(msgspec.Struct, frozen=True, kw_only=True):
    root: _RootEntry | None
    source_facts: dict[str, Any]


@dataclass(frozen=True, slots=True)
class ManifestInfo:
    """A manifest whose signature was checked. Without the map key, root and source_facts stay None."""

    body: ManifestBody
    writer_public_key: bytes
    sealed_opened: bool
    root: MapEntry | None
    source_facts: dict[str, Any] | None


def build_manifest(
    body: ManifestBody,
    *,
    root: MapEntry | None,
    source_facts: dict[str, Any],
    map_key: bytes,
    writer_key: WriterKey,
    salt: bytes,
    compressor: Compressor,
) -> bytes:
    raw_body = msgspec.msgpack.encode(body)
    section = _SealedSection(root=_root_entry(root), source_facts=source_facts)
    plain = msgspec.msgpack.encode(section)
    sealer = _manifest_sealer(body, map_key)
    record = sealer.seal_verified(plain, content_id=sealer.content_id(plain), salt=salt, compressor=compressor)
    head = _SEALED_HEAD.pack(record.plain_length, record.compression, record.nonce, record.content_id)
    sealed = head + record.payload
    message = b"".join(
        [
            pack_header(ObjectKind.MANIFEST.value),
            len(raw_body).to_bytes(4, "big"),
            raw_body,
            len(sealed).to_bytes(4, "big"),
            sealed,
            writer_key.fingerprint,
        ]
    )
    if len(message) + _SIGNATURE_SIZE > OBJECT_SIZE_MAX:
        raise FormatError("the manifest is too large; use larger packs", code="manifest_too_large")
    return message + sign(writer_key, message)


def parse_manifest(data: bytes, *, trusted_writers: Collection[bytes], map_key: bytes | None = None) -> ManifestInfo:
    """Verify and decode. Raises SignatureError, UnsupportedError, FormatError, IntegrityError."""
    if not OBJECT_HEADER.size + _TAIL_SIZE <= len(data) <= OBJECT_SIZE_MAX:
        raise FormatError("the manifest's size is out of bounds")
    check_header(data, ObjectKind.MANIFEST.value)
    signed_end = len(data) - _SIGNATURE_SIZE
    public = verify_signature(
        message=memoryview(data)[:signed_end],
        signature=data[signed_end:],
        fingerprint=data[signed_end - SHA256_SIZE : signed_end],
        trusted=trusted_writers,
    )
    reader = ByteReader(memoryview(data)[OBJECT_HEADER.size : -_TAIL_SIZE], what="manifest")
    body = _decode(reader.take(reader.number(4)), _BODIES)
    sealed = reader.take(reader.number(4))
    reader.expect_end()
    _check_body(body)
    if map_key is None:
        return ManifestInfo(body, public, sealed_opened=False, root=None, source_facts=None)
    section = _open_sealed(sealed, _manifest_sealer(body, map_key))
    root = _root_map_entry(section.root, body)
    return ManifestInfo(body, public, sealed_opened=True, root=root, source_facts=section.source_facts)


def manifest_ref(body: ManifestBody, *, sha256: str, size_bytes: int, version_id: str | None) -> ObjectRef:
    key = manifest_key(
        tenant=body.tenant,
        domain=body.domain,
        source_id=body.source_id,
        sequence=body.sequence,
        sha256=sha256,
    )
    return ObjectRef(key, sha256, size_bytes, version_id)


def _manifest_sealer(body: ManifestBody, map_key: bytes) -> RecordSealer:
    return map_sealer(RecordType.MANIFEST, tenant=body.tenant, domain=body.domain, map_key=map_key)


# Made here and not where something is read: msgspec crashes when two threads read the first one of a type at once.
_BODIES = msgspec.msgpack.Decoder(ManifestBody)
_SECTIONS = msgspec.msgpack.Decoder(_SealedSection)


def _decode(raw: bytes, decoder: msgspec.msgpack.Decoder[_Decoded]) -> _Decoded:
    try:
        return decoder.decode(raw)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise FormatError("a section of the manifest cannot be decoded") from error


def _check_body(body: ManifestBody) -> None:
    if body.format_version != FORMAT_VERSION:
        raise UnsupportedError(f"manifest version {body.format_version} is not supported")
    unknown = sorted(set(body.required_features) - KNOWN_FEATURES)
    if unknown:
        raise UnsupportedError(f"unknown required features: {', '.join(unknown)}", code="unknown_feature")
    if body.content not in FEATURE_OF_CONTENT:
        raise UnsupportedError("unknown kind of content")
    for name in (body.tenant, body.domain, body.source_id):
        check_name(name)
    _check_geometry(body)
    envelopes = [entry.envelope for entry in body.sessions]
    for entry in [*body.packs, *body.segments, *envelopes]:
        if len(entry.sha256) != SHA256_SIZE or not 0 < entry.size_bytes <= OBJECT_SIZE_MAX:
            raise FormatError("an object entry of the manifest is out of bounds")
    for session in body.sessions:
        if len(session.session_id) != SESSION_ID_SIZE or len(session.commitment) != SHA256_SIZE:
            raise FormatError("a session entry of the manifest is out of bounds")


def _check_geometry(body: ManifestBody) -> None:
    if body.content == CONTENT_DISK:
        check_geometry(size_bytes=body.size_bytes, block_size=body.block_size, fan_out=body.fan_out)
        return
    if FEATURE_OF_CONTENT[body.content] not in body.required_features:
        raise FormatError("the manifest does not ask for the feature that its content needs")
    if (body.block_size, body.fan_out) != (0, 0) or not 0 <= body.size_bytes < 1 << 62:
        raise FormatError("the geometry of the manifest is out of bounds")


def _open_sealed(sealed: bytes, sealer: RecordSealer) -> _SealedSection:
    reader = ByteReader(sealed, what="sealed section")
    plain_length, compression, nonce, content_id = _SEALED_HEAD.unpack(reader.take(_SEALED_HEAD.size))
    payload = reader.take(reader.left)
    record = SealedRecord(content_id, nonce, plain_length, compression, payload)
    return _decode(sealer.open(record), _SECTIONS)


def _root_entry(root: MapEntry | None) -> _RootEntry | None:
    if root is None:
        return None
    return _RootEntry(resolve(root.object_name), *root[3:])


def _root_map_entry(root: _RootEntry | None, body: ManifestBody) -> MapEntry | None:
    if root is None:
        return None
    location = (root.offset, root.record_length, root.plain_length, root.compression, root.nonce)
    entry = MapEntry(0, root.object_sha256, NO_SESSION, *location, root.content_id)
    if root.object_sha256 not in {segment.sha256 for segment in body.segments} or root.offset < 0:
        raise FormatError("the root page lies in a segment that the manifest does not list")
    check_location(entry)
    if len(root.nonce) != NONCE_SIZE or len(root.content_id) != CONTENT_ID_SIZE:
        raise FormatError("the root page reference is out of bounds")
    return entry
