"""One POST to an address that somebody typed, within fixed bounds of time and size.

The name is resolved once, here; the connection goes to an address that was vetted, and TLS is checked against the name.
Redirects are answers like any other: nobody follows them. No proxy is used, whatever the environment says.
"""

from __future__ import annotations

import http.client
import io
import queue
import socket
import ssl
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from common.errors import UnavailableError
from common.ssrf import Address, Guard, Resolver, Target, parse_target, vetted_addresses

CONNECT_SECONDS = 5.0
READ_SECONDS = 5.0
# All of it together: an answer that trickles in byte by byte ends here.
TOTAL_SECONDS = 15.0
LARGEST_ANSWER_BYTES = 64 * 1024


class DeliveryError(UnavailableError):
    """Nobody took what was sent; `code` says where it ended. The message holds nothing that the other side wrote."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back; `body` at most `LARGEST_ANSWER_BYTES`, the rest is not read."""

    status: int
    body: bytes
    seconds: float


def system_resolver(host: str, port: int) -> Sequence[str]:
    """The addresses that the system knows. Left behind when it takes too long: no signal reaches a resolver."""
    answers: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def ask() -> None:
        try:
            answers.put(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        except (OSError, UnicodeError) as error:
            answers.put(error)

    threading.Thread(target=ask, name="resolve", daemon=True).start()
    try:
        found = answers.get(timeout=CONNECT_SECONDS)
    except queue.Empty:
        raise TimeoutError("the name was not resolved in time") from None
    if isinstance(found, Exception):
        raise OSError("the name leads to no address") from found
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


def post(
    url: str,
    *,
    body: bytes,
    headers: Mapping[str, str],
    guard: Guard,
    resolve: Resolver = system_resolver,
    trust: ssl.SSLContext | None = None,
    total_seconds: float = TOTAL_SECONDS,
) -> Answer:
    """Send the body and return what came back, whatever its status.

    Raises ForbiddenTargetError for an address that may not be spoken to, DeliveryError when there was no answer.
    """
    begun = time.monotonic()
    target = parse_target(url, guard=guard)
    try:
        addresses = vetted_addresses(target, guard=guard, resolve=resolve)
        limited = _connect(target, addresses, trust=trust, deadline=begun + total_seconds)
    except ssl.SSLCertVerificationError as error:
        raise DeliveryError(
            "The certificate does not fit the name, or is not trusted.", code="bad_certificate"
        ) from error
    except ssl.SSLError as error:
        raise DeliveryError("The other side does not speak TLS as it should.", code="bad_tls") from error
    except TimeoutError as error:
        raise DeliveryError("Nobody answered in time.", code="timeout") from error
    except OSError as error:
        raise DeliveryError("The host cannot be reached.", code="unreachable") from error
    with limited:
        status, answer = _exchange(limited, target, body=body, headers=headers)
    return Answer(status=status, body=answer, seconds=time.monotonic() - begun)


def _connect(
    target: Target, addresses: Sequence[Address], *, trust: ssl.SSLContext | None, deadline: float
) -> _LimitedSocket:
    """The first address that answers, within the time for all of them."""
    until = min(deadline, time.monotonic() + CONNECT_SECONDS)
    failure: OSError = TimeoutError("no time left")
    for address in addresses:
        left = until - time.monotonic()
        if left <= 0:
            break
        try:
            plain = socket.create_connection((str(address), target.port), timeout=left)
        except OSError as error:
            failure = error
            continue
        try:
            return _LimitedSocket(_secured(plain, target, trust), deadline=deadline)
        except BaseException:
            plain.close()
            raise
    raise failure


def _secured(plain: socket.socket, target: Target, trust: ssl.SSLContext | None) -> socket.socket:
    if target.scheme == "http":
        return plain
    return (trust or ssl.create_default_context()).wrap_socket(plain, server_hostname=target.host)


def _exchange(limited: _LimitedSocket, target: Target, *, body: bytes, headers: Mapping[str, str]) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(target.host, target.port)
    connection.sock = limited  # it has what http.client uses of a socket
    try:
        connection.putrequest("POST", target.path, skip_host=True, skip_accept_encoding=True)
        for name, value in {"Host": target.authority, "Connection": "close", **headers}.items():
            connection.putheader(name, value)
        connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body)
        response = connection.getresponse()
        return response.status, response.read(LARGEST_ANSWER_BYTES)
    except TimeoutError as error:
        raise DeliveryError("The answer did not come in time.", code="timeout") from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise DeliveryError("The answer is not one that HTTP knows.", code="bad_answer") from error


class _LimitedSocket:
    """What http.client needs of a socket, with a last moment for all of it and not only for each single read."""

    def __init__(self, inner: socket.socket, *, deadline: float) -> None:
        self._inner = inner
        self._deadline = deadline

    def sendall(self, data: Any) -> None:
        self._wait_at_most(READ_SECONDS)
        self._inner.sendall(data)

    def makefile(self, mode: str = "rb") -> io.BufferedReader:
        return io.BufferedReader(_LimitedReader(self))

    def receive_into(self, buffer: Any) -> int:
        self._wait_at_most(READ_SECONDS)
        return self._inner.recv_into(buffer)

    def close(self) -> None:
        """The exchange ends with its `with`; http.client closes early, while the answer is still to be read."""

    def __enter__(self) -> _LimitedSocket:
        return self

    def __exit__(self, *_: object) -> None:
        self._inner.close()

    def _wait_at_most(self, seconds: float) -> None:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("no time left")
        self._inner.settimeout(min(left, seconds))


class _LimitedReader(io.RawIOBase):
    def __init__(self, limited: _LimitedSocket) -> None:
        super().__init__()
        self._limited = limited

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        return self._limited.receive_into(buffer)
