"""Sends finished objects in the background, a few at a time; an error surfaces with the next wait for any of them."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from engine.errors import CanceledError, IntegrityError, StoreContractError, StoreError
from engine.hashing import sha256_hex
from engine.store.base import Buffer, ObjectKind, ObjectRef, ObjectSink, PacedSink, object_key
from engine.throttle import Throttle
from engine.waiting import Cancel, check_cancel, result_of

_Result = TypeVar("_Result")

_UPLOADS_IN_FLIGHT = 2
# One more than can be on their way, so that the next object is made ready while those are sent.
_THREADS = _UPLOADS_IN_FLIGHT + 1
_PACE_BYTES = 64 * 1024


class Uploader:
    """Used by one thread; only `sink.put` and what is given to `prepare` run in the background.

    `drain` is the barrier between objects and those that refer to them. Use as a context manager: leaving
    it does not wait for puts that are still running, so a cancel is quick; what they still send is stopped.
    """

    def __init__(
        self, *, sink: ObjectSink, tenant: str, domain: str, cancel: Cancel, throttle: Throttle | None = None
    ) -> None:
        self._sink = sink
        self._tenant = tenant
        self._domain = domain
        self._cancel = cancel
        self._throttle = throttle
        self._executor = ThreadPoolExecutor(_THREADS, thread_name_prefix="upload")
        self._running: deque[Future[ObjectRef]] = deque()
        self._ended = threading.Event()
        self.stored: dict[bytes, ObjectRef] = {}
        self.stored_bytes = 0
        # The session's key envelope, once it is stored.
        self.envelope: ObjectRef | None = None

    def __enter__(self) -> Uploader:
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._executor.shutdown(wait=False, cancel_futures=True)

    def prepare(self, build: Callable[[], _Result]) -> Future[_Result]:
        """Make the next object ready beside those on their way; one at a time."""
        return self._executor.submit(build)

    def prepared(self, future: Future[_Result]) -> _Result:
        """What `prepare` began; raises the error of a put that failed meanwhile."""
        return result_of(future, self._is_over)

    def submit(self, kind: ObjectKind, data: bytes, *, sha256: str) -> None:
        """Start to send; blocks while too many are on their way."""
        while len(self._running) >= _UPLOADS_IN_FLIGHT:
            self._settle_oldest()
        key = object_key(tenant=self._tenant, domain=self._domain, kind=kind, sha256=sha256)
        self._running.append(self._executor.submit(self._put, key, data, sha256))

    def drain(self) -> None:
        while self._running:
            self._settle_oldest()

    def put_now(self, key: str, data: bytes, *, sha256: str) -> ObjectRef:
        """Send one object after everything else is stored."""
        self.drain()
        self._running.append(self._executor.submit(self._put, key, data, sha256))
        return self._settle_oldest()

    def _put(self, key: str, data: Buffer, sha256: str) -> ObjectRef:
        try:
            ref = self._send(key, data, sha256)
        except StoreError as error:
            if error.code != "bad_digest":
                raise
            # Spoiled on the way, or here? Only the first can be helped by sending the same bytes again.
            _check_buffer(key, data, sha256)
            ref = self._send(key, data, sha256)
        if (ref.key, ref.sha256, ref.size_bytes) != (key, sha256, len(data)):
            raise StoreContractError(f"the store answered for another object than {key}")
        return ref

    def _send(self, key: str, data: Buffer, sha256: str) -> ObjectRef:
        if isinstance(self._sink, PacedSink):
            return self._sink.put_paced(key=key, data=data, sha256=sha256, pace=self._pace)
        for start in range(0, len(data), _PACE_BYTES):
            self._pace(min(_PACE_BYTES, len(data) - start))
        return self._sink.put(key=key, data=data, sha256=sha256)

    def _pace(self, length: int) -> None:
        if self._ended.is_set():
            raise CanceledError("the session has ended")
        check_cancel(self._cancel)
        if self._throttle is not None:
            self._throttle.take(length)

    def _settle_oldest(self) -> ObjectRef:
        ref = result_of(self._running[0], self._is_over)
        self._running.popleft()
        self.stored[bytes.fromhex(ref.sha256)] = ref
        self.stored_bytes += ref.size_bytes
        return ref

    def _is_over(self) -> bool:
        """Whether waiting is in vain; raises the error of a put that failed while an older one is still running."""
        for future in self._running:
            if future.done():
                future.result()
        return self._cancel()


def _check_buffer(key: str, data: Buffer, sha256: str) -> None:
    if sha256_hex(data) != sha256:
        raise IntegrityError(
            f"{key} changed in memory after it was hashed; check this machine's memory", code="memory_fault"
        )
