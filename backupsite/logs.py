"""Structured logs without secrets: one JSON object per line, sensitive fields and signed URLs blotted out."""

from __future__ import annotations

import re
from collections.abc import Mapping, MutableMapping
from typing import Any

import structlog
from django.core.exceptions import PermissionDenied

_SENSITIVE_NAME = re.compile(
    r"(secret|password|passwd|token|authorization|cookie|api_?key|data_key|map_key|id_key|private)", re.I
)
_SIGNED_QUERY = re.compile(r"(X-Amz-(?:Signature|Credential|Security-Token)=)[^&\s\"']+", re.I)
_BEARER = re.compile(r"(Bearer\s+)\S+", re.I)
# Tokens of the API wherever they stand; the first half names one, and stays.
_TOKEN = re.compile(r"\b(bks_[A-Za-z0-9_-]{1,32}\.)[A-Za-z0-9_-]{8,}")
_AGENT = re.compile(r"(Backupsite-Agent\s+)[^\r\n]+")
_URL_PASSWORD = re.compile(r"(://[^:/@\s]*:)[^@/\s]+(@)")
BLOTTED = "[removed]"


def blot_text(text: str) -> str:
    """The text without signatures, tokens and passwords inside URLs."""
    text = _SIGNED_QUERY.sub(rf"\1{BLOTTED}", text)
    text = _TOKEN.sub(rf"\1{BLOTTED}", text)
    text = _AGENT.sub(rf"\1{BLOTTED}", text)
    text = _BEARER.sub(rf"\1{BLOTTED}", text)
    return _URL_PASSWORD.sub(rf"\1{BLOTTED}\2", text)


def blot_secrets(logger: Any, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """structlog processor: removes values by the name of their field, and secrets inside any text."""
    for name, value in event.items():
        event[name] = _blotted(name, value)
    return event


def _blotted(name: str, value: Any) -> Any:
    if _SENSITIVE_NAME.search(name):
        return BLOTTED
    if isinstance(value, str):
        return blot_text(value)
    if isinstance(value, Mapping):
        return {str(inner): _blotted(str(inner), item) for inner, item in value.items()}
    return [_blotted("", item) for item in value] if isinstance(value, list | tuple) else value


def shorten_refusals(logger: Any, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """structlog processor: who may not see a page is no fault of ours, so the reason is enough, without a traceback."""
    raised = event.get("exc_info")
    error = raised[1] if isinstance(raised, tuple) else None
    if isinstance(error, PermissionDenied) and event.get("level") == "warning":
        del event["exc_info"]
        event["reason"] = str(error)
    return event


def _as_text(value: Any) -> str:
    """What JSON cannot say, such as a request, whose text holds its address."""
    return blot_text(str(value))


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
                    shorten_refusals,
                    structlog.processors.format_exc_info,
                    blot_secrets,
                    structlog.processors.JSONRenderer(default=_as_text),
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
