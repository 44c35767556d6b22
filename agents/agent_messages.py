"""Messages between the control plane and the agent program, below `/agent/v1/`. Pure; both sides use it.

An agent asks, the control plane answers: nothing is ever sent to an agent that it did not ask for. Requests are signed
by the agent (`agents.signing`), answers and policies by the control plane (`agents.answer_signing`), so that whoever
sits between them, with whatever certificate, can say nothing in the name of either. JSON by schema; bytes in base64.
Unknown fields are ignored so that either side may be newer. No message has a command, a script or a path of a program.
"""

from __future__ import annotations

from datetime import datetime

import msgspec

PATH_PREFIX = "/agent/v1/"
LARGEST_MESSAGE_BYTES = 1024 * 1024
# Shown by the installer before the one-time secret: `bsa1.<secret>.<fingerprint>`, see `EnrolmentToken`.
TOKEN_PREFIX = "bsa1"  # noqa: S105  # no secret


class HostFacts(msgspec.Struct, frozen=True):
    """What an agent says of its machine, for people to read. `machine` is a hash that differs from machine to machine
    and stays with one; `boot` one that changes with every start of it."""

    hostname: str
    machine: str
    boot: str
    system: str = ""
    kernel: str = ""
    architecture: str = ""


class EnrolRequest(msgspec.Struct, frozen=True):
    """The only request without a signature: the one-time secret of the token speaks for it.

    `public_key` signs requests, `writer_key` manifests (both Ed25519, 32 bytes); the private ones never leave the
    server. Asked again with the same secret and the same keys the answer is the same: an answer may be lost.
    """

    secret: str
    public_key: bytes
    writer_key: bytes
    host: HostFacts
    version: str

    def __repr__(self) -> str:
        return f"EnrolRequest(host={self.host.hostname!r})"


class EnrolAnswer(msgspec.Struct, frozen=True):
    """`status` is `enrolled`, or `pending` until a person has approved it. `control_key` is what answers and policies
    are signed with (its fingerprint is in the token), `release_key` what updates are signed with (empty: no updates).
    `tls_pins` are SHA-256 of public keys of certificates that may speak for the control plane; none: any that the
    system trusts.
    """

    agent_id: str
    server: str
    tenant: str
    status: str
    control_key: bytes
    time: datetime
    release_key: bytes = b""
    tls_pins: list[bytes] = []


class WindowMessage(msgspec.Struct, frozen=True):
    """When backups may begin, in local time of a zone; `end` may be on the next day."""

    begin: str
    end: str
    time_zone: str


class BandwidthHours(msgspec.Struct, frozen=True):
    """Bytes a second between two full hours of the policy's zone; 0 means no limit."""

    begin_hour: int
    end_hour: int
    bytes_per_second: int


class AgentPolicy(msgspec.Struct, frozen=True):
    """What an agent may and has to do; kept on its server for when the control plane is away.

    `number` only grows: an older one is never taken again. `start_jitter_seconds`: a start is put off by up to this,
    and by up to `return_jitter_seconds` after the control plane was away for long. `allows_excludes`, `allows_hooks`:
    whether the server's own configuration may leave out files and name programs to run before and after (only those
    that are there already and belong to root). `cpu_weight` 1 to 100 and `idle_io` are priorities on the server.
    """

    number: int
    issued_at: datetime
    window: WindowMessage | None = None
    is_paused: bool = False
    excludes: list[str] = []
    allows_excludes: bool = False
    allows_hooks: bool = False
    allows_run_now: bool = True
    bandwidth: list[BandwidthHours] = []
    bandwidth_zone: str = "UTC"
    cpu_weight: int = 20
    idle_io: bool = True
    pause_on_battery: bool = True
    pause_on_metered: bool = True
    pause_above_load: float = 0.0
    start_jitter_seconds: int = 600
    return_jitter_seconds: int = 900
    poll_seconds: int = 60
    tls_pins: list[bytes] = []


class SignedPolicy(msgspec.Struct, frozen=True):
    """`policy` is an encoded `AgentPolicy`; the signature is the control key's over it, named for this agent."""

    policy: bytes
    signature: bytes


class TreeFacts(msgspec.Struct, frozen=True):
    """One mounted file system of the server, and how a backup of it is consistent: `btrfs`, `zfs`, `lvm`, `none`."""

    mount_point: str
    kind: str
    device: str
    total_bytes: int
    used_bytes: int
    snapshot: str = "none"
    left_out: str = ""


class PollRequest(msgspec.Struct, frozen=True):
    """Asked every `poll_seconds`. `count` grows with each poll, may jump, and is kept on disk: a machine that was
    cloned shows itself by a number that was there before. `jobs` are those it works on. `problem` is the agent's own
    last error, empty when all is well. `trees` is sent when it changed. `waits`: why a job that it was offered is not
    begun yet, by the job's id. `release`: the number of the release that runs, 0 for none."""

    host: HostFacts
    version: str
    count: int
    policy_number: int = 0
    jobs: list[str] = []
    problem_code: str = ""
    problem: str = ""
    trees: list[TreeFacts] | None = None
    waits: dict[str, str] = {}
    release: int = 0


class JobOffer(msgspec.Struct, frozen=True):
    """A job that waits for this agent. `kind` is `backup` or `restore`; a restore, and what a person asked for, begins
    at once, everything else after the jitter."""

    id: str
    kind: str
    begins_at_once: bool = False


class UpdateOffer(msgspec.Struct, frozen=True):
    """A release for this agent's ring: fetched below `/agent/v1/releases/`, checked against `release_key`.

    `manifest` is an encoded `ReleaseManifest`, `signature` the release key's over it.
    """

    manifest: bytes
    signature: bytes


class ReleaseManifest(msgspec.Struct, frozen=True):
    """What was signed where releases are made, never on the control plane. `number` only grows."""

    number: int
    version: str
    file: str
    size_bytes: int
    sha256: str
    least_python: str = "3.11"


class PollAnswer(msgspec.Struct, frozen=True):
    """`policy` is there when the agent has another number. `canceled` are jobs it works on and is to end.

    `waiting` says in a sentence why a job of this server is not among `jobs` yet; empty when none waits.
    """

    time: datetime
    next_poll_seconds: int
    policy: SignedPolicy | None = None
    jobs: list[JobOffer] = []
    canceled: list[str] = []
    update: UpdateOffer | None = None
    waiting: str = ""


class ClaimRequest(msgspec.Struct, frozen=True):
    """`count` is the next number of the polls': who has the key and claims without polling is noticed, too."""

    job: str
    count: int


class ClaimAnswer(msgspec.Struct, frozen=True):
    """The right to move data: a token of the session gate (`agents.protocol`), for this job and claim alone."""

    session_token: str
    gate_url: str
    kind: str
    backup: str

    def __repr__(self) -> str:
        return f"ClaimAnswer(kind={self.kind!r}, backup={self.backup!r})"


class StartRequest(msgspec.Struct, frozen=True):
    """`backupsite-agent run`: a backup now. Answered by a `JobOffer`; asked twice it is the same job."""


class BackupMessage(msgspec.Struct, frozen=True):
    """A backup of this server, as `backupsite-agent list` shows it."""

    id: str
    name: str
    created_at: datetime
    status: str
    health: str
    size_bytes: int
    content: str = "tree"
    note: str = ""


class BackupsAnswer(msgspec.Struct, frozen=True):
    backups: list[BackupMessage]
    # Give it back as `?after=` for the next page; empty at the end.
    after: str = ""


class RestoreRequest(msgspec.Struct, frozen=True):
    """A restore that a person at the server asks for. An agent's key alone reads nothing: a person who may restore
    confirms it in the portal, by the code that is shown on both sides. `paths` empty: everything."""

    backup: str
    target: str
    paths: list[str] = []
    overwrite: bool = False


class RestoreAsked(msgspec.Struct, frozen=True):
    """`state`: `waits`, `confirmed` (then `job` is there), `refused`, `expired`."""

    request: str
    code: str
    portal_url: str
    expires_at: datetime
    state: str = "waits"
    job: str = ""


class Me(msgspec.Struct, frozen=True):
    """Who the agent is to the control plane."""

    id: str
    status: str
    server: str
    tenant: str
    time: datetime


class RotateRequest(msgspec.Struct, frozen=True):
    """Another key for requests; the present one signs this request and is worth nothing after it."""

    public_key: bytes


class Refused(msgspec.Struct, frozen=True):
    """The fields of a problem document (RFC 9457) that an agent reads. `clock_skew` has the control plane's `time`: the
    agent goes by it from then on."""

    code: str = "error"
    detail: str = ""
    retry_after_seconds: int = 0
    time: datetime | None = None


# msgspec learns a type when it is first read, and crashes the process when two threads do that at the same moment. Here
# one thread does, while it imports.
_LEARNED = [msgspec.json.Decoder(kind) for kind in list(globals().values()) if isinstance(kind, msgspec.StructMeta)]
