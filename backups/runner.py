"""Runs a job on the node where this worker is: claim, move the data, let the gate know."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from functools import partial

from django.conf import settings
from django.db import close_old_connections, connections

from agents.program.holding import LOCKS, moving
from agents.program.mover import run_sessions
from agents.program.running import Means
from agents.program.serving_process import Order, start_serving
from agents.program.session import GateError, SessionClient
from agents.program.signing import load_writer_key
from backups.choosing import claim_companions, claim_for_hint
from backups.queue import hint_next
from backups.states import READING, JobKind
from backups.transitions import Claim, claim_job
from backups.unmade import remove_unmade
from common.database_time import database_now

logger = logging.getLogger(__name__)


def run_job(*, job_id: str) -> None:
    """Claim what goes first on the node of this job, and run it to its end; with it the jobs of its run on other disks.

    Does nothing when nothing is to be had: the message was only a hint.
    """
    now = database_now()
    claim = claim_for_hint(job_id=job_id, now=now)
    if claim is None:
        return
    _run([claim, *claim_companions(claim, now=now)])


def run_restore(*, job_id: str) -> None:
    """Claim this restore and run it to its end. A worker that does nothing else is free however many backups run."""
    claim = claim_job(job_id=job_id, now=database_now(), kinds=READING)
    if claim is not None:
        _run([claim])


def _run(claims: Sequence[Claim]) -> None:
    claim = claims[0]
    if claim.job.kind == JobKind.SERVE:
        _start_serving(claim)
        return
    disk_ids, server_id = [one.job.disk_id for one in claims], _server_of(claim)
    logger.info("jobs claimed", extra={"jobs": [str(one.job_id) for one in claims]})
    _clear_unmade(claims)
    # Hours may pass: the mover speaks HTTP with the gate, so no database connection is held meanwhile.
    connections.close_all()
    _move(claims, server_id)
    close_old_connections()
    for disk_id in disk_ids:
        hint_next(disk_id)


def _clear_unmade(claims: Sequence[Claim]) -> None:
    """A worker that was lost may have made the new disk before it could tell: this one makes it anew."""
    for claim in claims:
        if claim.fence > 1 and claim.job.creates_disk and claim.job.disk is not None:
            remove_unmade(claim.job.disk)


def _start_serving(claim: Claim) -> None:
    """In a process of its own: the worker is free for others while the backup is served, for hours."""
    config = settings.CONFIG
    pid = start_serving(
        Order(
            gate_url=config.gate_url,
            token=claim.token,
            retry_seconds=config.store_retry_seconds,
            node_directory=str(config.node_directory),
        )
    )
    logger.info("a backup is served", extra={"job": str(claim.job_id), "pid": pid})


def _server_of(claim: Claim) -> str:
    """Whose disk it is; a check of a copy may outlive it."""
    return str(claim.job.disk.server_id if claim.job.disk is not None else claim.job_id)


def _move(claims: Sequence[Claim], server_id: str) -> None:
    config = settings.CONFIG
    means = Means(
        writer_key=load_writer_key(config.node_directory),
        retry_seconds=config.store_retry_seconds,
        random_bytes=os.urandom,
        node_directory=config.node_directory,
    )
    clients = [
        SessionClient(gate_url=config.gate_url, token=claim.token, retry_seconds=config.store_retry_seconds)
        for claim in claims
    ]
    try:
        run_sessions(clients, means=means, hold=partial(moving, config.node_directory / LOCKS, server_id))
    except GateError as error:
        logger.warning("the gate could not be told; a lease will run out", extra={"code": error.code})
