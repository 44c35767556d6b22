"""ES-STREAM: the answer to a long action is held open, with a space now and then, until the task has ended.

Then come a line with the status code, and the body that `/task/<id>/status` has at that moment. It costs a thread of
the web server for as long as it lasts, so few are held at a time; who gets none has the plain answer, 201 PENDING.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

from django.http import StreamingHttpResponse
from django.utils import timezone
from rest_framework.renderers import JSONRenderer

from backups.models import Job
from backupsite.es_api.task_shapes import task_status
from common.errors import BackupsiteError, NotSignedInError
from tenants.access import get_for_user
from tenants.models import ApiToken, Person
from tenants.roles import Action

# Of a process with eight threads: the portal keeps most of them.
MOST_STREAMS = 2
LONGEST_SECONDS = 3600
_STEPS = (1, 1, 1, 3, 3, 6, 6, 12)
_LAST_STEP = 12

_places = threading.BoundedSemaphore(MOST_STREAMS)
pause = time.sleep


def stream_of(job: Job, *, person: Person, token: ApiToken | None) -> StreamingHttpResponse | None:
    """The answer that waits; None when as many as may wait already do. `token`: with which the person came."""
    if not _places.acquire(blocking=False):
        return None
    headers = {"es_stream": "es", "es_task_id": str(job.pk), "X-Accel-Buffering": "no"}
    waiting = _Waiting(job.pk, person=person, token=token)
    return StreamingHttpResponse(waiting, status=201, content_type="application/json", headers=headers)


class _Waiting:
    """The parts of the body. `close` gives the place back, also when the client is gone before the first part."""

    def __init__(self, key: Any, *, person: Person, token: ApiToken | None) -> None:
        self._parts = _parts(key, person=person, token=token)
        self._held = True

    def __iter__(self) -> Iterator[bytes]:
        return self._parts

    def close(self) -> None:
        self._parts.close()
        if self._held:
            self._held = False
            _places.release()


def _parts(key: Any, *, person: Person, token: ApiToken | None) -> Any:
    waited = 0
    # At once, so that the client has the headers.
    yield b" "
    for number in range(LONGEST_SECONDS):
        code, body = _looked_at(key, person, token)
        if code != 201 or waited >= LONGEST_SECONDS:
            break
        step = _STEPS[number] if number < len(_STEPS) else _LAST_STEP
        pause(step)
        waited += step
        yield b" "
    yield b"%d\n%s" % (code, JSONRenderer().render(body))


def _looked_at(key: Any, person: Person, token: ApiToken | None) -> tuple[int, dict[str, Any]]:
    """As the person may see it at this moment: rights and tokens can end while one waits."""
    try:
        if token is not None and not ApiToken.objects.filter(pk=token.pk).live(timezone.now()).exists():
            raise NotSignedInError("The token is not valid any more.")
        person.refresh_from_db(fields=["is_active", "is_superuser"])
        return task_status(get_for_user(Job.objects.all(), person=person, action=Action.VIEW, pk=key))
    except BackupsiteError as error:
        return error.http_status, {"detail": error.message, "task_id": str(key), "status": "FAILURE", "result": None}
