"""What a node's Celery worker reports: its signing key when it starts, that it is alive, and what it can do."""

from __future__ import annotations

import logging
import threading
import time

from celery.signals import heartbeat_sent, worker_ready, worker_shutting_down
from django.conf import settings
from django.db import DatabaseError, close_old_connections, connections

from agents.models import Storage
from agents.program.signing import load_writer_key
from agents.program.surveying import measure, probe_drivers
from agents.services import report_node, report_survey
from common.database_time import database_now

logger = logging.getLogger(__name__)

REPORT_INTERVAL_SECONDS = 15.0
SURVEY_INTERVAL_SECONDS = 300.0
_last_report = 0.0
_ended = threading.Event()


def connect() -> None:
    """Called by the composition root in processes of the role `node`."""
    worker_ready.connect(_on_ready, weak=False)
    heartbeat_sent.connect(_on_heartbeat, weak=False)
    worker_shutting_down.connect(_on_shutdown, weak=False)


def _on_ready(**_: object) -> None:
    _report(load_writer_key(settings.CONFIG.node_directory).public)
    # A daemon: a network file system that hangs holds nobody up.
    threading.Thread(target=_survey_again_and_again, name="survey", daemon=True).start()


def _survey_again_and_again() -> None:
    while True:
        try:
            survey()
        except Exception:  # the next one may go better; nothing else depends on it
            logger.exception("node could not say what it can do")
        finally:
            connections.close_all()
        if _ended.wait(SURVEY_INTERVAL_SECONDS):
            return


def survey() -> None:
    """Find out what the node can do, and report it."""
    name = settings.CONFIG.node
    paths = dict(Storage.objects.filter(node__name=name).values_list("pk", "path"))
    drivers = probe_drivers()
    found = {key: measure(path) for key, path in paths.items() if path.startswith("/")}
    report_survey(name=name, drivers=drivers, storages=found, now=database_now())


def _on_shutdown(**_: object) -> None:
    _ended.set()


def _on_heartbeat(**_: object) -> None:
    global _last_report
    if time.monotonic() - _last_report >= REPORT_INTERVAL_SECONDS:
        _last_report = time.monotonic()
        _report(None)


def _report(public_key: bytes | None) -> None:
    close_old_connections()
    try:
        report_node(name=settings.CONFIG.node, now=database_now(), signing_public_key=public_key)
    except DatabaseError:
        logger.exception("node could not report itself")
    finally:
        connections.close_all()
