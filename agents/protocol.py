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
    # The node's own name for the disk's server; empty where the driver knows none.
    server: str = ""


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
    # Points on the node: the base's (empty: read everything), those that later backups need, and what to name the next.
    base_point: str = ""
    kept_points: list[str] = []
    new_point: str = ""
    freeze: bool = False
    # Of a file tree: what is left out, as lines of a .gitignore file at its root; and how many files the last good
    # backup has: with any, a tree that is empty now is refused, for it is a mount that is missing.
    excludes: list[str] = []
    base_files: int = 0

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
    # Read the target first and write only what differs: after a cut, or because a person asked for it. What takes a
    # stream, such as a database, is written over only with it.
    differential: bool = False
    # Where blocks can be found whose own packs are gone or damaged, and packs that need not even be tried.
    relocations: list[ObjectMessage] = []
    gone_packs: list[str] = []
    # Bytes of the backup; whether to make the disk; and what to name a snapshot of what is there now, empty for none.
    size_bytes: int = 0
    create: bool = False
    safety_point: str = ""
    # A new server is to be defined of it: the mover asks (`restore-written`) when all blocks are there.
    defines: bool = False
    # The node's own name for the server that a new disk is to be attached to; empty where there is none.
    attach_to: str = ""
    # Of a file tree: which paths (empty: all), a folder inside of the tree instead of the tree itself (`create` makes
    # it), and whether what the backup does not have is removed. Only with `differential` may there be files already.
    paths: list[bytes] = []
    folder: str = ""
    delete_extra: bool = False

    def __repr__(self) -> str:
        return f"RestoreWork(manifest={self.manifest.key!r})"


class ServeWork(msgspec.Struct, frozen=True, tag="serve"):
    """A disk's backup to be served over NBD, read-only, on this node alone, for so many seconds.

    `reads` says what to read and has the keys; its disk is no target. `name` is that of the socket's folder.
    """

    reads: RestoreWork
    name: str
    seconds: int


class DrillWork(msgspec.Struct, frozen=True, tag="drill"):
    """A restore to a scratch file, which is compared with the backup and removed."""

    restore: RestoreWork


class CopyPlaceMessage(msgspec.Struct, frozen=True):
    """Where a copy lies: a storage of the node, and a path in it."""

    storage_path: str
    storage_id: str
    place: str


class CopyWork(msgspec.Struct, frozen=True, tag="copy"):
    """A full stream of a disk, to be written into a file of a storage. A bandwidth of 0 means no limit.

    `facts` go into the manifest beside the file. `is_first`: nothing of ours is known on the storage.
    """

    disk: DiskMessage
    at: CopyPlaceMessage
    compression: str
    facts: dict[str, str]
    is_first: bool = False
    new_point: str = ""
    kept_points: list[str] = []
    freeze: bool = False
    bandwidth_bytes_per_second: int = 0
    # Where the disk is, when it is on another node that this one reaches; and its id, which marks what is made there.
    node: str = ""
    disk_id: str = ""


class CopyRestoreWork(msgspec.Struct, frozen=True, tag="copy_restore"):
    """A copy to be written to a disk. SHA-256 and bytes are those of the file, `size_bytes` of what is in it."""

    disk: DiskMessage
    at: CopyPlaceMessage
    compression: str
    sha256: str
    file_bytes: int
    size_bytes: int
    create: bool = False
    safety_point: str = ""
    node: str = ""
    disk_id: str = ""
    tag: str = ""


class CopyCheckWork(msgspec.Struct, frozen=True, tag="copy_check"):
    """A copy to be read again."""

    at: CopyPlaceMessage
    sha256: str
    file_bytes: int


class BaseMessage(msgspec.Struct, frozen=True):
    """An earlier Dataset backup: `dataset@snapshot` on the backup node, and the guid of its snapshot."""

    place: str
    guid: str


class DatasetWork(msgspec.Struct, frozen=True, tag="dataset"):
    """A ZFS dataset or volume to be sent to the pool of this node. See `agents.drivers.zfs_sets.SendWish`.

    `node` is where the source is; empty: on this node.
    """

    source: str
    node: str
    disk: str
    snapshot: str
    chain: str
    bases: list[BaseMessage] = []
    kept: list[str] = []
    known: list[str] = []
    bandwidth_bytes_per_second: int = 0


class DatasetRestoreWork(msgspec.Struct, frozen=True, tag="dataset_restore"):
    """A Dataset backup of this node in the place of a dataset, or as a new one, there or on another node."""

    place: str
    guid: str
    target: str
    node: str
    disk: str
    tag: str
    size_bytes: int = 0
    create: bool = False


class DatasetCheckWork(msgspec.Struct, frozen=True, tag="dataset_check"):
    """A Dataset backup to be read again."""

    place: str
    guid: str


Work = (
    BackupWork
    | RestoreWork
    | DrillWork
    | ServeWork
    | CopyWork
    | CopyRestoreWork
    | CopyCheckWork
    | DatasetWork
    | DatasetRestoreWork
    | DatasetCheckWork
)


class Progress(msgspec.Struct, frozen=True):
    """How far a session is. `total_bytes` 0 means not known yet."""

    phase: str
    done_bytes: int = 0
    total_bytes: int = 0
    stored_bytes: int = 0


class OpenRequest(msgspec.Struct, frozen=True):
    """Whether the mover will say when it has opened the target of a restore (`TargetOpened`)."""

    tells_target: bool = False


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


class WarnedMessage(msgspec.Struct, frozen=True):
    """What did not stop the work and a person should know."""

    code: str
    message: str


class FactsMessage(msgspec.Struct, frozen=True):
    """What the driver really said of the disk that was read (see `SourceFacts`); all empty when it said nothing."""

    point: str = ""
    frozen: bool = False
    full_reason: str = ""
    warnings: list[WarnedMessage] = []
    # The server's own description is in the manifest, so that a new one can be defined of it.
    has_configuration: bool = False


class TargetOpened(msgspec.Struct, frozen=True):
    """The driver has the target for itself; said before the first byte is written. The snapshot is there already."""

    safety_point: str = ""
    warnings: list[WarnedMessage] = []


class Serving(msgspec.Struct, frozen=True):
    """The backup can be read now, at this socket of the node."""

    socket: str


class ServeDone(msgspec.Struct, frozen=True):
    """The time is over. Bytes that were read over NBD, and reads that failed."""

    read_bytes: int
    failed_reads: int
    usage: MoverUsage = MoverUsage()


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
    facts: FactsMessage = FactsMessage()


class CopyDone(msgspec.Struct, frozen=True):
    """The copy has its name and is on the medium.

    Of a dataset, `sha256` is `guid:` and its snapshot's guid, and `place` says which chain it went to.
    """

    sha256: str
    file_bytes: int
    size_bytes: int
    read_bytes: int
    usage: MoverUsage = MoverUsage()
    facts: FactsMessage = FactsMessage()
    place: str = ""


class CopyChecked(msgspec.Struct, frozen=True):
    """What was found of a copy that was read again: `ok`, `damaged` or `missing`."""

    outcome: str
    message: str = ""
    usage: MoverUsage = MoverUsage()


class DefineOrder(msgspec.Struct, frozen=True):
    """The last of a server's disks is written: define it. `disks` has the new path of each old one.

    Without a name there is nothing to do: other disks are still missing.
    """

    name: str = ""
    disks: dict[str, str] = {}


class RestoreDone(msgspec.Struct, frozen=True):
    """`server` is the node's own name for the server that was defined, empty when none was. `warnings` say what of
    single files is otherwise than it was."""

    written_bytes: int
    usage: MoverUsage = MoverUsage()
    server: str = ""
    # What the guest calls the new disk that was attached to its server.
    attached_as: str = ""
    warnings: list[WarnedMessage] = []


class Failure(msgspec.Struct, frozen=True):
    """The session ended without success. `message` is shown to people. `is_whole_but_damage`: of a restore of files,
    everything but what `warnings` name was restored."""

    code: str
    message: str
    permanent: bool = False
    warnings: list[WarnedMessage] = []
    is_whole_but_damage: bool = False


class Refusal(msgspec.Struct, frozen=True):
    """Body of every refused call."""

    code: str = "error"
    message: str = ""


# msgspec learns a type when it is first read, and crashes the process when two threads do that at the same moment. Here
# one thread does, while it imports.
_LEARNED = [msgspec.json.Decoder(kind) for kind in list(globals().values()) if isinstance(kind, msgspec.StructMeta)]
