"""Messages between the control plane's session gate and whatever moves data: a node's worker or an agent program.

Pure and versioned by the path prefix. JSON by schema only; bytes travel as base64. Unknown fields are ignored so that
either side may be newer.
"""

from __future__ import annotations

from datetime import datetime

import msgspec

PATH_PREFIX = "/session/v1/"
LARGEST_MESSAGE_BYTES = 32 * 1024 * 1024
# Codes of a refusal after which the session can do nothing more; every other one is about the call alone.
SESSION_OVER = frozenset({"session_ended", "not_signed_in", "session_too_long"})


class ObjectMessage(msgspec.Struct, frozen=True):
    """One object of the vault."""

    key: str
    sha256: str
    size_bytes: int
    version_id: str | None = None


class DiskMessage(msgspec.Struct, frozen=True):
    """Which driver opens which disk."""

    driver: str
    storage_path: str
    path: str
    size_bytes: int


class ResumableMessage(msgspec.Struct, frozen=True):
    """What an earlier attempt at this backup stored before it was cut; packs in the order they were granted."""

    session_id: str
    envelope: ObjectMessage
    packs: list[ObjectMessage]


class BackupWork(msgspec.Struct, frozen=True, tag="backup"):
    """All that a writer needs. It holds no key with which earlier backups could be read.

    Resumable attempts come oldest first; they became no backup. A bandwidth of 0 means no limit.
    """

    disk: DiskMessage
    tenant: str
    domain: str
    source_id: str
    sequence: int
    created_at: datetime
    id_key: bytes
    map_key: bytes
    tenant_public_key: bytes
    block_size_bytes: int
    compression_level: int
    source_facts: dict[str, str]
    trusted_writers: list[bytes]
    base: ObjectMessage | None = None
    resumable: list[ResumableMessage] = []
    # SHA-256 of the base's packs and segments that are damaged: what lies in them is read and stored anew.
    distrusted: list[str] = []
    bandwidth_bytes_per_second: int = 0

    def __repr__(self) -> str:
        return f"BackupWork(source_id={self.source_id!r}, sequence={self.sequence})"


class RestoreWork(msgspec.Struct, frozen=True, tag="restore"):
    """All that a restore needs: the keys of the sessions whose blocks it reads, and no others."""

    disk: DiskMessage
    tenant: str
    domain: str
    manifest: ObjectMessage
    id_key: bytes
    map_key: bytes
    data_keys: dict[str, bytes]
    trusted_writers: list[bytes]
    # Read the target first and write only what differs: after a cut, or because a person asked for it.
    differential: bool = False
    # Where blocks can be found whose own packs are gone or damaged, and packs that need not even be tried.
    relocations: list[ObjectMessage] = []
    gone_packs: list[str] = []

    def __repr__(self) -> str:
        return f"RestoreWork(manifest={self.manifest.key!r})"


Work = BackupWork | RestoreWork


class Progress(msgspec.Struct, frozen=True):
    """How far a session is. `total_bytes` 0 means not known yet."""

    phase: str
    done_bytes: int = 0
    total_bytes: int = 0
    stored_bytes: int = 0


class HeartbeatAnswer(msgspec.Struct, frozen=True):
    """`cancel` asks the mover to stop at once."""

    cancel: bool = False


class PutSpecMessage(msgspec.Struct, frozen=True):
    key: str
    sha256: str
    md5_base64: str
    size_bytes: int


class PutGrantsRequest(msgspec.Struct, frozen=True):
    specs: list[PutSpecMessage]


class GetGrantsRequest(msgspec.Struct, frozen=True):
    objects: list[ObjectMessage]


class GrantMessage(msgspec.Struct, frozen=True):
    method: str
    url: str
    headers: dict[str, str]

    def __repr__(self) -> str:
        return f"GrantMessage(method={self.method!r})"


class GrantsAnswer(msgspec.Struct, frozen=True):
    grants: list[GrantMessage]


class MoverUsage(msgspec.Struct, frozen=True):
    """What the mover itself used, for benchmarks and limits."""

    wall_seconds: float = 0.0
    cpu_seconds: float = 0.0
    peak_memory_bytes: int = 0


class CommitRequest(msgspec.Struct, frozen=True):
    """The writer is done. It proves nothing: the control plane looks at every object itself."""

    manifest: ObjectMessage
    new_objects: list[ObjectMessage]
    reused_objects: list[ObjectMessage]
    read_bytes: int
    changed_bytes: int
    stored_bytes: int
    usage: MoverUsage = MoverUsage()
    # Objects of earlier attempts that the manifest needs, their envelopes included.
    resumed_objects: list[ObjectMessage] = []


class RestoreDone(msgspec.Struct, frozen=True):
    written_bytes: int
    usage: MoverUsage = MoverUsage()


class Failure(msgspec.Struct, frozen=True):
    """The session ended without success. `message` is shown to people."""

    code: str
    message: str
    permanent: bool = False


class Refusal(msgspec.Struct, frozen=True):
    """Body of every refused call."""

    code: str = "error"
    message: str = ""
