"""What every check of the probe works with: calls by name, refusals as values, a deadline over all of it."""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError
from django.utils import timezone

from common.errors import BackupsiteError, UnavailableError
from vaults.models import Vault
from vaults.storage import Credential, error_code, probing_client_for

# Names begin with the time: a listing shows the oldest first.
RUNS = "probe/runs/"
# Locked for days by the bucket's default, hence apart from those that the next probe removes.
LASTING = "probe/lasting/"
LONGEST_SECONDS = 25.0
# Longer than the whole probe may take, so that none ends in the middle of it; the next night removes what is left.
LOCK = timedelta(seconds=90)
_NOT_IMPLEMENTED = 501


class ProbeFailedError(BackupsiteError):
    """The store does not keep what a vault promises. The message names the call and what to do."""

    code = "probe_failed"

    def __init__(self, call: str, finding: str, *, refusal: str = "", status: int = 0) -> None:
        super().__init__(f"{call}: {finding}", extra={"call": call})
        # What the store said, when it refused a call that it should obey.
        self.refusal = refusal
        self.status = status


class ProbeUnansweredError(UnavailableError):
    """The store did not answer a call of the probe, or not in time: nothing is known about what it keeps."""

    code = "probe_unanswered"

    def __init__(self, call: str, finding: str) -> None:
        super().__init__(f"{call}: {finding}", extra={"call": call})


@dataclass(frozen=True, slots=True)
class Clock:
    """The times of the probe: the wall clock, a clock for durations in seconds, and how to wait."""

    now: Callable[[], datetime]
    monotonic_seconds: Callable[[], float]
    wait_seconds: Callable[[float], object]


@dataclass(slots=True)
class Subject:
    """One vault under test. Objects of one run lie below `folder`; `written` are (key, version id) of each."""

    vault: Vault
    clock: Clock
    run: str = field(init=False)
    written: list[tuple[str, str]] = field(default_factory=list)
    # The store's clock minus ours; lock dates are reckoned by the store's.
    skew: timedelta = timedelta(0)
    begun_seconds: float = field(init=False)

    def __post_init__(self) -> None:
        self.begun_seconds = self.clock.monotonic_seconds()
        self.run = f"{self.clock.now():%Y%m%dT%H%M%S}-{uuid.uuid4().hex[:12]}"

    @property
    def bucket(self) -> str:
        return self.vault.bucket

    @property
    def folder(self) -> str:
        return f"{RUNS}{self.run}/"

    def key(self, name: str) -> str:
        return self.folder + name

    def until(self, lock: timedelta = LOCK) -> datetime:
        """A lock date that far from the store's time, in whole seconds as stores keep it."""
        return (self.clock.now() + self.skew + lock).replace(microsecond=0)

    def call(self, operation: str, *, by: Credential = Credential.PROVISIONER, **parameters: Any) -> Mapping[str, Any]:
        """The store's answer to one call. Raises ProbeFailedError for a refusal, ProbeUnansweredError for none."""
        try:
            return self._send(operation, by, parameters)
        except ClientError as error:
            code, name = error_code(error), call_name(operation)
            finding = f"refused with {code}; it is needed."
            raise ProbeFailedError(name, finding, refusal=code, status=_status(error)) from error

    def refusal(self, operation: str, *, by: Credential = Credential.PROVISIONER, **parameters: Any) -> str:
        """The code with which the store refused the call, empty when it obeyed. Raises ProbeUnansweredError."""
        try:
            self._send(operation, by, parameters)
        except ClientError as error:
            return error_code(error)
        return ""

    def must_refuse(self, finding: str, operation: str, *, by: Credential = Credential.PROVISIONER, **p: Any) -> str:
        """The code of the refusal. Raises ProbeFailedError with the finding when the store obeyed."""
        code = self.refusal(operation, by=by, **p)
        if not code:
            raise ProbeFailedError(call_name(operation), finding)
        return code

    def put(self, name: str, body: bytes, *, lock: timedelta = LOCK) -> str:
        """Write a locked object of this run and return its version id."""
        locked = {"ObjectLockMode": "COMPLIANCE", "ObjectLockRetainUntilDate": self.until(lock)}
        version_id = version_of(self.call("put_object", Key=self.key(name), Body=body, **locked))
        self.written.append((self.key(name), version_id))
        return version_id

    def read(self, name: str, version_id: str, **parameters: Any) -> bytes:
        """The bytes of one version."""
        answer = self.call("get_object", Key=self.key(name), VersionId=version_id, **parameters)
        try:
            data: bytes = answer["Body"].read()
        except (BotoCoreError, OSError) as error:
            raise ProbeUnansweredError("GetObject", "the store does not answer: it ended in the middle.") from error
        return data

    def check_time(self, call: str) -> None:
        """Raises ProbeUnansweredError when the whole probe has taken too long."""
        if self.clock.monotonic_seconds() - self.begun_seconds > LONGEST_SECONDS:
            message = f"the store does not answer in time: the probe is not done after {LONGEST_SECONDS:.0f} s."
            raise ProbeUnansweredError(call, message)

    def _send(self, operation: str, by: Credential, parameters: Mapping[str, Any]) -> Mapping[str, Any]:
        name = call_name(operation)
        self.check_time(name)
        client = probing_client_for(self.vault.endpoint, by)
        try:
            answer: Mapping[str, Any] = getattr(client, operation)(Bucket=self.bucket, **parameters)
        except ClientError as error:
            if _status(error) >= 500 and _status(error) != _NOT_IMPLEMENTED:
                raise ProbeUnansweredError(name, f"the store failed with {error_code(error)}; try again.") from error
            raise
        except BotoCoreError as error:
            raise ProbeUnansweredError(name, "the store does not answer. Is its service running?") from error
        return answer


def version_of(answer: Mapping[str, Any]) -> str:
    """The version id of a PutObject. Raises ProbeFailedError when the store gave none."""
    version_id: str = answer.get("VersionId") or ""
    if not version_id or version_id == "null":
        raise ProbeFailedError("PutObject", "the store gave the object no version; locks protect versions only.")
    return version_id


def _status(error: ClientError) -> int:
    """The HTTP status; an answer without one is no answer."""
    return int((error.response.get("ResponseMetadata") or {}).get("HTTPStatusCode") or 500)


def call_name(operation: str) -> str:
    """`put_object` -> `PutObject`: as the store's documentation has it."""
    return re.sub(r"(?:^|_)([a-z])", lambda match: match[1].upper(), operation)


def real_clock() -> Clock:
    return Clock(now=timezone.now, monotonic_seconds=time.monotonic, wait_seconds=time.sleep)
