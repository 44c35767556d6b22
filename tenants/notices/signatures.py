"""Signatures of webhooks by the Standard Webhooks scheme (version 1: HMAC-SHA256). Pure.

What is signed is `id.timestamp.body`. A receiver refuses a timestamp that is more than five minutes off and an id that
it has seen: the same id comes again when an earlier answer was lost.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Sequence
from datetime import datetime

SECRET_PREFIX = "whsec_"  # noqa: S105  # a prefix, no secret


def signed_headers(*, message_id: str, body: bytes, secrets: Sequence[str], now: datetime) -> dict[str, str]:
    """The three headers; one signature per secret, the newest first."""
    timestamp = str(int(now.timestamp()))
    signatures = [_signature(secret, message_id=message_id, timestamp=timestamp, body=body) for secret in secrets]
    return {
        "webhook-id": message_id,
        "webhook-timestamp": timestamp,
        "webhook-signature": " ".join(signatures),
    }


def _signature(secret: str, *, message_id: str, timestamp: str, body: bytes) -> str:
    key = base64.b64decode(secret.removeprefix(SECRET_PREFIX))
    signed = f"{message_id}.{timestamp}.".encode() + body
    return "v1," + base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
