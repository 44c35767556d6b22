"""Structured logs without secrets: one JSON object per line, sensitive fields and signed URLs blotted out."""

from __future__ import annotations

import re
from collections.abc import MutableMapping
from typing import Any

import structlog

_SENSITIVE_NAME = re.compile(
    r"(secret|password|passwd|token|authorization|cookie|api_?key|data_key|map_key|id_key|private)", re.I
)
_SIGNED_QUERY = re.compile(r"(X-Amz-(?:Signature|Credential|Security-Token)=)[^&\s\"']+", re.I)
_BEARER = re.compile(r"(Bearer\s+)\S+", re.I)
_URL_PASSWORD = re.compile(r"(://[^:/@\s]*:)[^@/\s]+(@)")
BLOTTED = "[removed]"


def blot_text(text: str) -> str:
    """The text without signatures, bearer tokens and passwords inside URLs."""
    text = _SIGNED_QUERY.sub(rf"\1{BLOTTED}", text)
    text = _BEARER.sub(rf"\1{BLOTTED}", text)
    return _URL_PASSWORD.sub(rf"\1{BLOTTED}\2", text)


def blot_secrets(logger: Any, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """structlog processor: removes values by the name of their field, and secrets inside any text."""
    for name, value in event.items():
        if _SENSITIVE_NAME.search(name):
            event[name] = BLOTTED
        elif isinstance(value, str):
            event[name] = blot_text(value)
    return event


_SHARED = [
    structlog.stdlib.add_logger_name,
    structlog.stdlib.add_log_level,
    structlog.stdlib.ExtraAdder(),
    structlog.processors.TimeStamper(fmt="iso", utc=True),
]


def logging_config(*, level: str) -> dict[str, Any]:
    """Configuration for `logging.config.dictConfig`; every logger of every library goes through it."""
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {
            "json": {
                "()": structlog.stdlib.ProcessorFormatter,
                "foreign_pre_chain": _SHARED,
                "processors": [
                    structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                    structlog.processors.format_exc_info,
                    blot_secrets,
                    structlog.processors.JSONRenderer(default=str),
                ],
            }
        },
        "handlers": {"standard_error": {"class": "logging.StreamHandler", "formatter": "json"}},
        "root": {"handlers": ["standard_error"], "level": level},
        "loggers": {
            "botocore": {"level": "WARNING"},
            "urllib3": {"level": "WARNING"},
            "celery.beat": {"level": "WARNING"},
            "celery.worker.strategy": {"level": "WARNING"},
            "celery.app.trace": {"level": "WARNING"},
        },
    }
