"""Sends finished objects in the background, a few at a time; an error surfaces one put later."""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor

from engine.errors import StoreContractError
from engine.store.base import Buffer, ObjectKind, ObjectRef, ObjectSink, object_key
from engine.waiting import Cancel, result_of

_UPLOADS_IN_FLIGHT = 2


class Uploader:
    """Used by one thread; only `sink.put` runs in the background.

    `drain` is the barrier between objects and those that refer to them. Use as a context manager: leaving
    it does not wait for puts that are still running, so a cancel is quick.
    """

    def __init__(self, *, sink: ObjectSink, tenant: str, domain: str, cancel: Cancel) -> None:
        self._sink = sink
        self._tenant = tenant
        self._domain = domain
        self._cancel = cancel
        self._executor = ThreadPoolExecutor(_UPLOADS_IN_FLIGHT, thread_name_prefix="upload")
        self._running: deque[Future[ObjectRef]] = deque()
        self.stored: dict[bytes, ObjectRef] = {}
        self.stored_bytes = 0

    def __enter__(self) -> Uploader:
        return self

    def __exit__(self, *_: object) -> None:
        self._executor.shutdown(wait=False, cancel_futures=True)

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
        ref = self._sink.put(key=key, data=data, sha256=sha256)
        if (ref.key, ref.sha256, ref.size_bytes) != (key, sha256, len(data)):
            raise StoreContractError(f"the store answered for another object than {key}")
        return ref

    def _settle_oldest(self) -> ObjectRef:
        ref = result_of(self._running[0], self._cancel)
        self._running.popleft()
        self.stored[bytes.fromhex(ref.sha256)] = ref
        self.stored_bytes += ref.size_bytes
        return ref
