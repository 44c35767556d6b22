"""Errors as the es grammar has them: its own status codes, and a body that its clients and ours can both read.

The body is the problem document of `/api/v1/` with `task_id`, `status` and `result` beside it. RFC 9457 tells readers
to pass over a `status` that is no number, and the number is that of the answer itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus

from rest_framework.response import Response

from common.errors import BackupsiteError, ConflictError

# Our code -> the status that this grammar has for it; what is not named keeps its own.
STATUSES: Mapping[str, int] = {
    "name_taken": 406,
    "job_ended": 406,
    "backup_not_ok": 417,
    "backup_in_use": 417,
    "quota_exceeded": 417,
    "node_in_maintenance": 423,
    "vault_not_ready": 423,
    "vault_leaving": 423,
    "tenant_suspended": 423,
    "disk_incomplete": 423,
    "retired": 423,
    "target_too_small": 428,
    "other_kind_of_disk": 428,
    "copy_elsewhere": 428,
    "wrong_content": 428,
    "customer_key_needed": 428,
}
# Our field -> the parameter that it came from.
_PARAMETERS: Mapping[str, str] = {
    "cron": "schedule",
    "retention_count": "retention",
    "description": "desc",
    "bandwidth_limit": "bwlimit",
    "freeze_filesystem": "fsfreeze",
    "backup_node": "node",
    "storage": "zpool",
    "target": "target_disk_id",
    "backups": "bkpnames",
}


class PreconditionError(BackupsiteError):
    """A parameter names what is not there: a disk, a column to order by, the names of backups."""

    code = "precondition_failed"
    http_status = 412


class ExpectationError(BackupsiteError):
    """What the caller wants to be kept cannot be promised."""

    code = "expectation_failed"
    http_status = 417


class AmbiguousNameError(ConflictError):
    """Several things that the caller sees have the name."""

    code = "ambiguous_name"


def as_failure(answer: Response, statuses: Mapping[str, int]) -> Response:
    """The answer to an error, in the words of this grammar; `statuses` are those of the one view."""
    problem = answer.data
    status = {**STATUSES, **statuses}.get(problem["code"], answer.status_code)
    errors = [{**item, "field": _parameter(item["field"])} for item in problem["errors"]]
    named: dict[str, list[str]] = {}
    for item in errors:
        named.setdefault(item["field"] or "detail", []).append(item["detail"])
    answer.status_code = status
    answer.data = {
        **problem,
        "title": HTTPStatus(status).phrase,
        "errors": errors,
        "task_id": None,
        "status": "FAILURE",
        "result": named or {"detail": problem["detail"]},
    }
    return answer


def _parameter(field: str | None) -> str | None:
    return None if field is None else _PARAMETERS.get(field, field)
