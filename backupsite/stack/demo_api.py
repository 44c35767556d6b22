"""The demo as a client of the service's own API, like any other program."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any

from backupsite.stack.errors import StackError

_POLL_SECONDS = 0.3
Json = dict[str, Any]


class DemoApi:
    """Calls of the API with a token; every refusal becomes a StackError with the service's own words."""

    def __init__(self, *, portal_url: str, token: str) -> None:
        self._base = f"{portal_url}/api/v1/"
        self._token = token

    def get(self, path: str) -> Json:
        return self._call("GET", path, None)

    def post(self, path: str, body: Json) -> Json:
        return self._call("POST", path, body)

    def patch(self, path: str, body: Json) -> Json:
        return self._call("PATCH", path, body)

    def wait_for_job(self, job_id: str, *, timeout_seconds: float, tell: Callable[[str], None]) -> Json:
        """The job once it is `ok`. Raises StackError with its own message when it ends otherwise or takes too long."""
        return self.wait(
            lambda: self._ended(job_id, tell), timeout_seconds=timeout_seconds, what="the job did not end in time"
        )

    def wait(self, found: Callable[[], Json | None], *, timeout_seconds: float, what: str) -> Json:
        """Ask until there is an answer. Raises StackError(what) after the time."""
        give_up_at = time.monotonic() + timeout_seconds
        while time.monotonic() < give_up_at:
            answer = found()
            if answer is not None:
                return answer
            time.sleep(_POLL_SECONDS)
        raise StackError(f"{what} ({timeout_seconds:.0f} s)")

    def _ended(self, job_id: str, tell: Callable[[str], None]) -> Json | None:
        job = self.get(f"jobs/{job_id}/")
        if job["state"] == "ok":
            return job
        if job["state"] in {"failed", "canceled"}:
            raise StackError(f"the {job['kind']} {job['state']}: {job['message']}")
        total = job["total_bytes"]
        share = f"{job['done_bytes'] * 100 // total} %" if total else ""
        tell(f"{job['phase'] or job['state']} {share}".strip())
        return None

    def _call(self, method: str, path: str, body: Json | None) -> Json:
        request = urllib.request.Request(  # noqa: S310  # the portal's own http address
            self._base + path,
            method=method,
            data=json.dumps(body).encode() if body is not None else None,
            headers={"Authorization": f"Bearer {self._token}", "Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310  # as above
                return dict(json.loads(answer.read() or b"{}"))
        except urllib.error.HTTPError as error:
            raise StackError(f"the API refused {method} {path}: {_words(error)}") from error
        except OSError as error:
            raise StackError(f"the API does not answer {method} {path}: {error}") from error


def _words(error: urllib.error.HTTPError) -> str:
    try:
        return str(json.loads(error.read())["detail"])
    except (ValueError, KeyError, TypeError):
        return f"HTTP {error.code}"
