"""Runs sessions: opens disks by their driver and lets the engine move the data straight to or from the vault.

The same code runs in a node's Celery worker and in the agent program. It knows no database and no storage credential.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from itertools import groupby

from agents import protocol
from agents.program.backing_up import Reading, back_up
from agents.program.copies import CopyMessage, run_copy
from agents.program.datasets import run_dataset
from agents.program.drilling import drill
from agents.program.restoring import restore
from agents.program.running import Means, Run
from agents.program.serving import serve
from agents.program.session import SessionClient
from engine.crypto import WriterKey

# Far shorter than a lease; a cancel is noticed with a beat.
HEARTBEAT_SECONDS = 1.0


def run_session(
    client: SessionClient,
    *,
    writer_key: WriterKey,
    retry_seconds: float,
    random_bytes: Callable[[int], bytes] = os.urandom,
) -> None:
    """As `run_sessions`, with one."""
    means = Means(writer_key=writer_key, retry_seconds=retry_seconds, random_bytes=random_bytes)
    run_sessions([client], means=means)


def run_sessions(
    clients: Sequence[SessionClient], *, means: Means, hold: Callable[[], AbstractContextManager[None]] = nullcontext
) -> None:
    """Run sessions to their ends and report each. Returns also when they failed: the gate has been told why.

    Backups of one server are opened together and are of one moment. `hold` keeps away, on this machine, what may not
    touch the server meanwhile. Raises only GateError, when the gate itself cannot be told of one; its lease then runs
    out and the job is taken over.
    """
    runs = [Run(client, interval_seconds=HEARTBEAT_SECONDS) for client in clients]
    try:
        with hold():
            _move(runs, means)
    except Exception as error:
        for run in runs:
            run.fail(error)
    finally:
        for run in runs:
            run.end()
    for run in runs:
        if run.untold is not None:
            raise run.untold


def _move(runs: Sequence[Run], means: Means) -> None:
    readings = []
    for run in runs:
        work = run.attempt(run.client.open)
        if isinstance(work, protocol.BackupWork):
            readings.append(Reading(run, work))
        elif isinstance(work, protocol.RestoreWork):
            run.attempt(partial(restore, run, work, means))
        elif isinstance(work, protocol.DrillWork):
            run.attempt(partial(drill, run, work, means))
        elif isinstance(work, protocol.ServeWork):
            run.attempt(partial(serve, run, work, means))
        elif isinstance(work, CopyMessage):
            run.attempt(partial(run_copy, run, work, means.node_directory))
        elif work is not None:
            run.attempt(partial(run_dataset, run, work, means.node_directory))
    for _, together in groupby(sorted(readings, key=_place), key=_place):
        back_up(list(together), means)


def _place(reading: Reading) -> tuple[str, str, str]:
    """What is opened together: one driver, one server, one point."""
    return reading.work.disk.driver, reading.work.disk.server, reading.work.new_point
