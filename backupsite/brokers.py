"""What each kind of broker needs to be told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

# Seconds. Who writes a job does not wait for minutes on a broker that is gone: the row is kept, and told of later.
_PATIENCE = {"health_check_interval": 25, "socket_timeout": 30, "socket_connect_timeout": 3}


def transport_options(url: str, *, data: Path) -> dict[str, Any]:
    """Celery's transport options for the broker of this URL."""
    if url.startswith(("redis", "rediss")):
        return {"visibility_timeout": 3600, "socket_keepalive": True, **_PATIENCE}
    if url.startswith("filesystem"):
        # The last rung where no server can be started: folders, asked five times a second.
        queue, control = data.absolute() / "broker" / "queue", data.absolute() / "broker" / "control"
        for folder in (queue, control):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        return {
            "data_folder_in": str(queue),
            "data_folder_out": str(queue),
            "control_folder": str(control),
            "polling_interval": 0.2,
        }
    return {}
