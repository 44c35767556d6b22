"""The keys of one domain, found in its key envelopes (`k/`) with the tenant's private key.

Anybody may seal an envelope to a public key, so what comes out of one is a candidate: a data key counts when it fits
the commitment in a signed manifest, domain keys when they open what was signed. After a change of the tenant's key
there are several envelopes for one session; those that were made for another key are passed over.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from engine.alone.bucket import Bucket, BucketSource, StoredVersion, read_fitting
from engine.alone.layout import DomainPlace, sha256_of_key
from engine.alone.parallel import ordered_results
from engine.crypto import DomainKeys, key_fingerprint, tenant_key_from_private
from engine.envelope import ENVELOPE_SIZE_MAX, EnvelopeInfo, UnwrappedKeys, parse_envelope, unwrap_envelope
from engine.errors import EngineError, KeyMismatchError, StoreError, StoreNotFoundError
from engine.manifest import SessionEntry
from engine.store.base import ObjectKind, ObjectRef, fetch_whole


@dataclass(frozen=True, slots=True)
class _Envelope:
    info: EnvelopeInfo
    data: bytes


class Keyring:
    """Reads envelopes when they are needed and remembers what they held. Not thread-safe."""

    def __init__(self, *, bucket: Bucket, place: DomainPlace, tenant_private_key: bytes) -> None:
        self._bucket = bucket
        self._source = BucketSource(bucket)
        self._place = place
        self._private = tenant_private_key
        self._recipient = key_fingerprint(tenant_key_from_private(tenant_private_key).public)
        self._all: dict[bytes, list[_Envelope]] | None = None
        self.seen_count = 0

    def domain_keys(self) -> Iterator[DomainKeys]:
        """Candidates, each once. At the end KeyMismatchError when not one envelope opens with this key
        (wrong_recovery_key) or when there is none at all (no_envelopes)."""
        given: set[tuple[bytes, bytes]] = set()
        for envelope in self._envelopes():
            unwrapped = self._unwrap(envelope)
            if unwrapped is None:
                continue
            domain = unwrapped.domain
            if (domain.id_key, domain.map_key) not in given:
                given.add((domain.id_key, domain.map_key))
                yield domain
        if not self.seen_count:
            raise KeyMismatchError(f"{self._place} has no key envelope", code="no_envelopes")
        if not given:
            raise KeyMismatchError(
                f"none of the {self.seen_count} key envelopes of {self._place} was made for this recovery key",
                code="wrong_recovery_key",
            )

    def data_keys(self, sessions: Iterable[SessionEntry]) -> dict[bytes, bytes]:
        """Session id -> data key, for the sessions in use; those that we cannot open are left out."""
        needed = [session for session in sessions if session.use_count]
        listed = ordered_results(self._listed_key, needed)
        keys = {session.session_id: key for session, key in zip(needed, listed, strict=True) if key is not None}
        for session in needed:
            if session.session_id not in keys:
                key = self.other_data_key(session)
                if key is not None:
                    keys[session.session_id] = key
        return keys

    def other_data_key(self, session: SessionEntry) -> bytes | None:
        """The session's data key from any envelope of the domain, such as one made after a change of the key."""
        if self._all is None:
            self._all = {}
            for envelope in self._envelopes():
                self._all.setdefault(envelope.info.session_id, []).append(envelope)
        found = (self._fitting_key(envelope, session) for envelope in self._all.get(session.session_id, []))
        return next((key for key in found if key is not None), None)

    def _listed_key(self, session: SessionEntry) -> bytes | None:
        """From the envelope that the manifest lists."""
        entry = session.envelope
        sha256 = entry.sha256.hex()
        key = f"{self._place.prefix(ObjectKind.KEY)}{sha256}"
        try:
            data = fetch_whole(
                self._source, ObjectRef(key, sha256, entry.size_bytes, entry.version_id), size_max=ENVELOPE_SIZE_MAX
            )
            return self._fitting_key(_Envelope(parse_envelope(data), data), session)
        except StoreNotFoundError:
            return None
        except StoreError as error:
            if error.transient:
                raise
            return None
        except EngineError:
            return None

    def _fitting_key(self, envelope: _Envelope, session: SessionEntry) -> bytes | None:
        info = envelope.info
        if (info.session_id, info.commitment, info.recipient) != (
            session.session_id,
            session.commitment,
            self._recipient,
        ):
            return None
        unwrapped = self._unwrap(envelope)
        return unwrapped.session.data_key if unwrapped is not None else None

    def _envelopes(self) -> Iterator[_Envelope]:
        """All of this domain that were made for us."""
        groups = self._bucket.versions(self._place.prefix(ObjectKind.KEY))
        self.seen_count = 0
        for envelope in ordered_results(self._read, groups):
            self.seen_count += 1
            if envelope is not None and envelope.info.recipient == self._recipient:
                yield envelope

    def _read(self, versions: list[StoredVersion]) -> _Envelope | None:
        sha256 = sha256_of_key(versions[0].key)
        try:
            found = read_fitting(self._bucket, versions, sha256=sha256, size_max=ENVELOPE_SIZE_MAX)
            return _Envelope(parse_envelope(found.data), found.data) if found else None
        except StoreError:
            raise
        except EngineError:
            return None

    def _unwrap(self, envelope: _Envelope) -> UnwrappedKeys | None:
        try:
            return unwrap_envelope(
                envelope.data,
                tenant_private_key=self._private,
                tenant=self._place.tenant,
                domain=self._place.domain,
            )
        except EngineError:
            return None
