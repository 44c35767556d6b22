"""What a node's Celery worker reports about itself: its signing key when it starts, and that it is alive."""

from __future__ import annotations

import logging
import time

from celery.signals import heartbeat_sent, worker_ready
from django.conf import settings
from django.db import DatabaseError, close_old_connections, connections
from django.utils import timezone

from agents.program.signing import load_writer_key
from agents.services import report_node

logger = logging.getLogger(__name__)

REPORT_INTERVAL_SECONDS = 15.0
_last_report = 0.0


def connect() -> None:
    """Called by the composition root in processes of the role `node`."""
    worker_ready.connect(_on_ready, weak=False)
    heartbeat_sent.connect(_on_heartbeat, weak=False)


def _on_ready(**_: object) -> None:
    _report(load_writer_key(settings.CONFIG.node_directory).public)


def _on_heartbeat(**_: object) -> None:
    global _last_report
    if time.monotonic() - _last_report >= REPORT_INTERVAL_SECONDS:
        _last_report = time.monotonic()
        _report(None)


def _report(public_key: bytes | None) -> None:
    close_old_connections()
    try:
        report_node(name=settings.CONFIG.node, now=timezone.now(), signing_public_key=public_key)
    except DatabaseError:
        logger.exception("node could not report itself")
    finally:
        connections.close_all()
