"""Serves a backup over NBD without restoring it: read-only, on a unix socket of this node, for some hours."""

from __future__ import annotations

import os
import time
from contextlib import ExitStack

from agents import protocol
from agents.drivers.base import DiskBusyError
from agents.drivers.holding import held_server
from agents.drivers.nbd_server import NbdServer
from agents.program.restoring import keys_of, relocations_of
from agents.program.running import Means, Run, UsageMeter
from agents.program.session import GateUnreachableError, to_ref
from engine.errors import CanceledError
from engine.image_reader import ImageReader
from engine.store.http import GrantedSource, HttpPolicy

PHASE = "serving"
_LOOK_SECONDS = 0.5
# Nobody can end a job whose control plane is gone.
_SILENCE_SECONDS = 300.0
# A process whose lease ran out hears of it with its next beat, and lets go of the socket.
_FORMER_SECONDS = 30.0


def serve(run: Run, work: protocol.ServeWork, means: Means) -> None:
    """Until the time is over or somebody ends the job."""
    meter, image = UsageMeter(), _image(run, work.reads, means)
    with ExitStack() as stack:
        at = os.path.join(_own_folder(stack, work.name, run), "nbd.socket")
        server = stack.enter_context(NbdServer(image, at))
        run.client.serving(protocol.Serving(socket=at))
        until = time.monotonic() + work.seconds
        while time.monotonic() < until:
            run.heart.tell(protocol.Progress(phase=PHASE, done_bytes=server.read_bytes))
            if run.heart.stopped():
                raise CanceledError("canceled on request")
            if time.monotonic() - run.heart.answered_at > _SILENCE_SECONDS:
                raise GateUnreachableError("gate_unreachable", "The control plane does not answer.")
            time.sleep(_LOOK_SECONDS)
    done = protocol.ServeDone(read_bytes=server.read_bytes, failed_reads=server.failed_reads, usage=meter.read())
    run.client.serve_done(done)
    run.end()


def _image(run: Run, reads: protocol.RestoreWork, means: Means) -> ImageReader:
    policy = HttpPolicy(retry_seconds=means.retry_seconds, cancel=run.heart.stopped)
    source = GrantedSource(run.client, policy=policy)
    return ImageReader(
        manifest_ref=to_ref(reads.manifest),
        object_source=source,
        keys=keys_of(reads),
        trusted_writers=reads.trusted_writers,
        relocations=relocations_of(reads, source),
        gone_packs=[bytes.fromhex(sha256) for sha256 in reads.gone_packs],
    )


def _own_folder(stack: ExitStack, name: str, run: Run) -> str:
    """A private folder for the socket, once the process that served the job before has let go of it."""
    give_up_at = time.monotonic() + _FORMER_SECONDS
    while True:
        try:
            return stack.enter_context(held_server(name))
        except DiskBusyError:
            if time.monotonic() > give_up_at or run.heart.stopped():
                raise
            time.sleep(_LOOK_SECONDS)
