"""One request and its answer. Certificates are checked; nothing is redirected: a key goes where it was meant to go."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from backupsite.es_command.configuration import Configuration
from backupsite.es_command.errors import TransportError, UsageError

LARGEST_ANSWER = 256 * 1024 * 1024
_IN_QUERY = frozenset({"GET", "OPTIONS"})


@dataclass(frozen=True, slots=True)
class Answer:
    """`text` is what the body holds as JSON, else the body as it is."""

    method: str
    url: str
    status: int
    text: Any
    headers: Mapping[str, str] = field(default_factory=dict)


class Client:
    """`secrets` are the headers that say who one is."""

    def __init__(self, configuration: Configuration, *, secrets: Mapping[str, str], insecure: bool = False) -> None:
        self._configuration = configuration
        self._secrets = dict(secrets)
        self._context = _context(configuration, insecure=insecure) if configuration.url.startswith("https:") else None

    def ask(self, method: str, resource: str, parameters: Mapping[str, Any] | None = None) -> Answer:
        """Raises TransportError when no answer came."""
        given = dict(parameters or {})
        path = _path(self._configuration.url, resource)
        body = None
        if method in _IN_QUERY:
            path += f"?{urlencode(_query(given), doseq=True)}" if given else ""
        else:
            body = json.dumps(given).encode()
        url = _origin(self._configuration.url) + path
        try:
            return self._ask(method, path, body, url=url)
        except ssl.SSLCertVerificationError as error:
            raise TransportError(
                f"The server's certificate is not trusted: {error.verify_message}. Name its authority (ES_CA_FILE)."
            ) from error
        except (OSError, http.client.HTTPException) as error:
            raise TransportError(f"{url} does not answer: {_words(error)}") from error

    def _ask(self, method: str, path: str, body: bytes | None, *, url: str) -> Answer:
        connection = self._connection()
        headers = {"User-Agent": "es", "Accept": "application/json", **self._secrets}
        if body is not None:
            headers["Content-Type"] = "application/json"
        try:
            connection.request(method, path, body=body, headers=headers)
            answer = connection.getresponse()
            raw = answer.read(LARGEST_ANSWER + 1)
            if len(raw) > LARGEST_ANSWER:
                raise TransportError("The answer is too large.")
            return Answer(method, url, answer.status, _parsed(raw), dict(answer.getheaders()))
        finally:
            connection.close()

    def _connection(self) -> http.client.HTTPConnection:
        parts, timeout = urlsplit(self._configuration.url), self._configuration.timeout_seconds
        host = str(parts.hostname)
        if self._context is None:
            return http.client.HTTPConnection(host, parts.port, timeout=timeout)
        return http.client.HTTPSConnection(host, parts.port, timeout=timeout, context=self._context)


def _context(configuration: Configuration, *, insecure: bool) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=configuration.ca_file)
    except (OSError, ssl.SSLError) as error:
        raise UsageError(f"{configuration.ca_file} is no file with certificates: {error}") from error
    if insecure:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def _path(url: str, resource: str) -> str:
    whole = urlsplit(url).path + quote(resource, safe="/%:@+~,")
    return whole if whole.endswith("/") else f"{whole}/"


def _origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def _query(given: Mapping[str, Any]) -> dict[str, Any]:
    """Words as the server reads them; what is null is not said."""
    words = {True: "true", False: "false"}
    return {
        name: words[value] if isinstance(value, bool) else json.dumps(value) if isinstance(value, dict) else value
        for name, value in given.items()
        if value is not None
    }


def _parsed(raw: bytes) -> Any:
    text = raw.decode("utf-8", errors="replace")
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _words(error: Exception) -> str:
    if isinstance(error, socket.timeout | TimeoutError):
        return "no answer in time"
    return str(error) or type(error).__name__
