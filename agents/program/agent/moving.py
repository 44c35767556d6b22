"""One job, in a process of its own: its mounts, memory and priorities end with it.

The order comes on standard input, so that no secret is in a list of processes; what happens goes to standard output, a
line of JSON each. It is told to end by SIGTERM, and ends with the agent's process in any case.
"""

from __future__ import annotations

import base64
import logging
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from functools import partial
from pathlib import Path
from types import FrameType
from typing import BinaryIO, NoReturn

import msgspec

from agents import protocol
from agents.agent_messages import AgentPolicy
from agents.answer_signing import HEADER, NONCE_HEADER, gate_request, is_answer_signed
from agents.drivers.base import Warned
from agents.drivers.host import HostDriver, HostSettings
from agents.program.agent.conditions import why_paused
from agents.program.agent.errors import NotTrustedError
from agents.program.agent.holding import LOOK_SECONDS, Hold, never_held
from agents.program.agent.hooks import hooks_around
from agents.program.agent.identity import load_identity, writer_key
from agents.program.agent.limits import be_gentle, die_with_parent
from agents.program.agent.memory import Anchor, ControlClock
from agents.program.agent.places import Places, Settings
from agents.program.agent.policy import bytes_per_second, lower
from agents.program.agent.tls import connect, read_url
from agents.program.backing_up import COMMITTING
from agents.program.mover import run_sessions
from agents.program.running import Means
from agents.program.session import GateError, GateRefusedError, SessionClient
from agents.signing import NONCE_BYTES

logger = logging.getLogger(__name__)

RETRY_SECONDS = 900.0
ENDED = "ended"
HOST = "host"
# The phase that people see of a job that waits while it is under way.
HELD = "held"
# Of what came without a signature: something before the gate is busy, and the gate may answer the next time.
_BUSY = frozenset({429, 500, 502, 503, 504})


class MoveOrder(msgspec.Struct, frozen=True):
    """What the agent tells its mover. `may_be_held`: whether it waits, also when it is under way, where the policy says
    so; what a person asked for does not."""

    config: str
    state: str
    job: str
    kind: str
    gate_url: str
    session_token: str
    settings: Settings
    policy: AgentPolicy | None = None
    anchor: Anchor | None = None
    retry_seconds: float = RETRY_SECONDS
    may_be_held: bool = False
    look_seconds: float = LOOK_SECONDS

    def __repr__(self) -> str:
        return f"MoveOrder(job={self.job!r}, kind={self.kind!r})"


class MoveEvent(msgspec.Struct, frozen=True):
    """How far it is. With the phase `ended` it is over: `code` empty for well, else what was told to the gate. `held`
    says why it waits for better times."""

    phase: str
    done_bytes: int = 0
    total_bytes: int = 0
    stored_bytes: int = 0
    code: str = ""
    message: str = ""
    held: str = ""


class NotTrustedGateError(GateError):
    """What answered is not the gate of the control plane that this agent was enrolled with. Nothing of it was used."""


class AgentSession(SessionClient):
    """A session of whose gate nothing is read that the control key did not sign for this very call.

    Its course is told to the agent as well. One instance serves all threads of a session.
    """

    def __init__(
        self,
        order: MoveOrder,
        tell: Callable[[MoveEvent], None],
        *,
        pins: list[bytes],
        control_key: bytes,
        hold: Hold | None = None,
    ) -> None:
        super().__init__(
            gate_url=order.gate_url,
            token=order.session_token,
            retry_seconds=order.retry_seconds,
            connect=partial(connect, read_url(order.gate_url), pins=pins, ca_file=order.settings.ca_file),
        )
        self._bearer = order.session_token
        self._control_key = control_key
        self._kind, self._restores = order.kind, order.settings.restores
        self._tell = tell
        self._telling, self._commits = threading.Lock(), False
        self._hold = hold or never_held()
        self.outcome: MoveEvent | None = None

    def open(self) -> protocol.Work:
        """Raises GateRefusedError for work that is not what this agent was told it claims, or not an agent's."""
        work = super().open()
        why = _why_refused(work, kind=self._kind, restores=self._restores)
        if why:
            raise GateRefusedError("work_refused", why)
        return work

    def heartbeat(self, progress: protocol.Progress) -> protocol.HeartbeatAnswer:
        done = progress.done_bytes, progress.total_bytes, progress.stored_bytes
        held = self._hold.why()
        self._tell_course(MoveEvent(progress.phase, *done, held=held))
        return super().heartbeat(msgspec.structs.replace(progress, phase=HELD) if held else progress)

    def commit(self, request: protocol.CommitRequest) -> None:
        # The heart may wait for a gate that is away, and say nothing until it is back.
        self._tell_course(MoveEvent(COMMITTING, request.read_bytes, request.read_bytes, request.stored_bytes))
        super().commit(request)
        self.outcome = MoveEvent(ENDED, request.read_bytes, request.read_bytes, request.stored_bytes)

    def _tell_course(self, event: MoveEvent) -> None:
        """The heart's thread tells what it read before the commit: that is over once the commit was told."""
        with self._telling:
            if event.phase == COMMITTING or not self._commits:
                self._commits = event.phase == COMMITTING
                self._tell(event)

    def restore_done(self, done: protocol.RestoreDone) -> None:
        super().restore_done(done)
        self.outcome = MoveEvent(ENDED, done.written_bytes, done.written_bytes)

    def fail(self, failure: protocol.Failure) -> None:
        self.outcome = MoveEvent(ENDED, code=failure.code, message=failure.message)
        super().fail(failure)

    def _post(self, path: str, body: bytes) -> tuple[int, bytes]:
        address = protocol.PATH_PREFIX + path
        nonce = base64.urlsafe_b64encode(os.urandom(NONCE_BYTES)).rstrip(b"=").decode()
        try:
            answer = self._sent(address, body, {NONCE_HEADER: nonce})
        except NotTrustedError as error:
            raise self._distrusted(error.code, error.message) from error
        asked = gate_request(token=self._bearer, nonce=nonce, path=address, body=body) or ""
        return self._checked(answer.status, answer.content, asked=asked, signature=answer.headers.get(HEADER, ""))

    def _checked(self, status: int, content: bytes, *, asked: str, signature: str) -> tuple[int, bytes]:
        key = self._control_key
        if is_answer_signed(key, header=signature, request=asked, status=status, body=content):
            return status, content
        if not signature and status in _BUSY:
            return status, b""
        message = (
            f"The session gate's answer ({status}) is not signed by the control plane that this agent belongs to. A "
            "proxy, or somebody else, answered in its place."
        )
        raise self._distrusted("gate_not_trusted", message)

    def _distrusted(self, code: str, message: str) -> NotTrustedGateError:
        # Should the heart meet it first, the agent is told all the same why the session is over.
        self.outcome = MoveEvent(ENDED, code=code, message=message)
        return NotTrustedGateError(code, message)


def _why_refused(work: protocol.Work, *, kind: str, restores: bool) -> str:
    """In words; empty for what an agent does. The rest is for nodes: devices, other servers, copies, scratch files."""
    if not isinstance(work, protocol.BackupWork | protocol.RestoreWork):
        return f"An agent does no work of the kind {type(work).__name__}."
    if kind != ("backup" if isinstance(work, protocol.BackupWork) else "restore"):
        return f"This agent claimed a {kind}, and was told to do other work."
    if work.disk.driver != HOST:
        return f"An agent reads and writes its own server, not by the driver {work.disk.driver!r}."
    if isinstance(work, protocol.BackupWork):
        return ""
    if work.defines or work.attach_to:
        return "An agent defines no servers and attaches no disks."
    return "" if restores else "agent.toml of this server says restores = false: nothing is written to it."


def move(order: MoveOrder, tell: Callable[[MoveEvent], None]) -> MoveEvent:
    """Do the job; how it ended, which the gate was told too as far as it could be."""
    places = Places(Path(order.config), Path(order.state))
    identity = load_identity(places)
    HostDriver.configured = host_settings(places, order.settings, order.policy)
    # The agent keeps those of the newest policy.
    hold = hold_of(order)
    session = AgentSession(order, tell, pins=identity.tls_pins, control_key=identity.control_key, hold=hold)
    clock = ControlClock(order.anchor)
    means = Means(
        writer_key=writer_key(places),
        retry_seconds=order.retry_seconds,
        random_bytes=os.urandom,
        node_directory=places.state,
        bandwidth=partial(limit_now, order, clock, hold),
        pause=hold.wait,
    )
    try:
        run_sessions([session], means=means, hold=partial(hooks_of, places, order))
    except GateError as error:
        return MoveEvent(ENDED, code=error.code, message=error.message)
    return session.outcome or MoveEvent(
        ENDED, code="session_ended", message="The control plane ended the session: canceled, taken over, or revoked."
    )


def host_settings(places: Places, settings: Settings, policy: AgentPolicy | None) -> HostSettings:
    """What the server's own administrator leaves out counts only where the policy allows it."""
    own = settings.excludes if policy is not None and policy.allows_excludes else []
    excludes = tuple(policy.excludes if policy is not None else ())
    return HostSettings(
        root=settings.root,
        work=places.state / "work",
        never=(str(places.state),),
        excludes=(*excludes, *own),
        needs=tuple(os.path.realpath(path) for path in (places.config, places.state, settings.ca_file) if str(path)),
        warnings=_narrowed(settings),
    )


def _narrowed(settings: Settings) -> tuple[Warned, ...]:
    """No policy says what `root` of agent.toml is, so every backup does."""
    if settings.is_whole_server:
        return ()
    message = f"Only {settings.root} of this server is in its backup: `root` of agent.toml there says so."
    return (Warned("part_of_server", message),)


def hold_of(order: MoveOrder) -> Hold:
    """By the policy that the job began with."""
    if order.policy is None or not order.may_be_held or order.kind != "backup":
        return never_held()
    return Hold(partial(why_paused, order.policy), seconds=order.look_seconds)


def limit_now(order: MoveOrder, clock: ControlClock, hold: Hold, of_work: int) -> int:
    """Of this moment: the lowest of what the work, agent.toml and the policy's hour say."""
    own, hour = order.settings.bytes_per_second, bytes_per_second(order.policy, clock.now())
    return lower(of_work, own, hour, hold.bytes_per_second())


def hooks_of(places: Places, order: MoveOrder) -> AbstractContextManager[None]:
    is_allowed = order.policy is not None and order.policy.allows_hooks and order.settings.hooks
    if order.kind != "backup" or not is_allowed:
        return nullcontext()
    return hooks_around(places.hooks, seconds=order.settings.hook_seconds, trusted_owner=os.geteuid())


def main(source: BinaryIO | None = None, sink: BinaryIO | None = None) -> int:
    """The mover's process. Exit code 0 when the order was carried out, whatever came of it."""
    die_with_parent()
    signal.signal(signal.SIGTERM, _end)
    order = msgspec.json.decode((source or sys.stdin.buffer).read(), type=MoveOrder)
    out = sink or sys.stdout.buffer

    def tell(event: MoveEvent) -> None:
        # Without the agent that listens the kernel ends this process too.
        with suppress(BrokenPipeError):
            out.write(msgspec.json.encode(event) + b"\n")
            out.flush()

    # /tmp may be memory, and anybody may fill it.
    tempfile.tempdir = order.state
    be_gentle(order.policy)
    tell(move(order, tell))
    return 0


def _end(number: int, frame: FrameType | None) -> NoReturn:
    sys.exit(128 + number)
