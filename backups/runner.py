"""Runs a job on the node where this worker is: claim, move the data, let the gate know."""

from __future__ import annotations

import logging

from django.conf import settings
from django.db import close_old_connections, connections

from agents.program.mover import run_session
from agents.program.session import GateError, SessionClient
from agents.program.signing import load_writer_key
from backups.choosing import claim_for_hint
from backups.queue import hint_next
from common.database_time import database_now

logger = logging.getLogger(__name__)


def run_job(*, job_id: str) -> None:
    """Claim what goes first on the node of this job, and run it to its end.

    Does nothing when nothing is to be had: the message was only a hint.
    """
    claim = claim_for_hint(job_id=job_id, now=database_now())
    if claim is None:
        return
    job_id, disk_id = str(claim.job_id), claim.job.disk_id
    logger.info("job claimed", extra={"job": job_id})
    # Hours may pass: the mover speaks HTTP with the gate, so no database connection is held meanwhile.
    connections.close_all()
    retry_seconds = settings.CONFIG.store_retry_seconds
    client = SessionClient(gate_url=settings.CONFIG.gate_url, token=claim.token, retry_seconds=retry_seconds)
    try:
        run_session(
            client,
            writer_key=load_writer_key(settings.CONFIG.node_directory),
            retry_seconds=retry_seconds,
        )
    except GateError as error:
        logger.warning("the gate could not be told; the lease will run out", extra={"job": job_id, "code": error.code})
    close_old_connections()
    hint_next(disk_id)
