"""The way to the control plane: HTTPS to whom the system trusts and, where keys were pinned, to these keys alone."""

from __future__ import annotations

import hashlib
import http.client
import ipaddress
import os
import re
import socket
import ssl
from collections.abc import MutableMapping, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from agents.program.agent.errors import NotTrustedError, UsageError

TIMEOUT_SECONDS = 30.0
# What OpenSSL says of a certificate that is not valid yet, or no longer.
_BY_TIME = frozenset({9, 10})
# Where systems keep the certificates that they trust: Debian and Alpine, RHEL, SUSE.
_SYSTEM_CERTIFICATES = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
)
_HOST = re.compile(r"[A-Za-z0-9.:_-]{1,253}\Z")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A control plane's address. `path` begins with a slash unless empty, and ends with none."""

    is_secure: bool
    host: str
    port: int
    path: str = ""

    @property
    def url(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        usual = self.port == (443 if self.is_secure else 80)
        return f"{'https' if self.is_secure else 'http'}://{host}{'' if usual else f':{self.port}'}{self.path}"


def trust_this_system(environment: MutableMapping[str, str], files: Sequence[str] = _SYSTEM_CERTIFICATES) -> None:
    """For a frozen program: its OpenSSL looks where the system that it was built on keeps certificates."""
    found = next((file for file in files if os.path.isfile(file)), "")  # noqa: PTH113  # names, of which none may be there
    if found and not environment.keys() & {"SSL_CERT_FILE", "SSL_CERT_DIR"}:
        environment["SSL_CERT_FILE"] = found


def read_url(url: str) -> Endpoint:
    """Raises UsageError. Without TLS only this machine is spoken to."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise UsageError(f"{url!r} is no address of a control plane.") from None
    host = parts.hostname or ""
    if parts.scheme not in {"https", "http"} or not _HOST.match(host) or parts.query or parts.fragment or "@" in url:
        raise UsageError("The control plane's address looks like https://backup.example.com.")
    if parts.scheme == "http" and not _is_loopback(host):
        raise UsageError("The control plane's address must begin with https://; http is for this machine alone.")
    return Endpoint(
        parts.scheme == "https", host, port or (443 if parts.scheme == "https" else 80), parts.path.rstrip("/")
    )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def connect(endpoint: Endpoint, *, pins: Sequence[bytes], ca_file: str = "") -> http.client.HTTPConnection:
    """An open connection. Raises OSError when nobody is there, NotTrustedError when it is somebody else."""
    if not endpoint.is_secure:
        plain = http.client.HTTPConnection(endpoint.host, endpoint.port, timeout=TIMEOUT_SECONDS)
        plain.connect()
        return plain
    context = ssl.create_default_context(cafile=ca_file or None)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        secured = _secured(endpoint, context)
    except ssl.SSLCertVerificationError as error:
        if error.verify_code not in _BY_TIME or not pins:
            raise NotTrustedError(_why_not(error)) from error
        # A clock that is wrong by years makes every certificate invalid. The pinned key says who it is all the same.
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        secured = _secured(endpoint, context)
    if pins and key_hash(secured.sock) not in pins:
        secured.close()
        raise NotTrustedError(
            f"{endpoint.host} shows a certificate with a key that is not the one pinned at enrolment, although the "
            "system trusts it. Somebody may stand between here and the control plane. If its key was changed on "
            "purpose, enrol again.",
            code="wrong_tls_key",
        )
    return secured


def _secured(endpoint: Endpoint, context: ssl.SSLContext) -> http.client.HTTPSConnection:
    connection = http.client.HTTPSConnection(endpoint.host, endpoint.port, timeout=TIMEOUT_SECONDS, context=context)
    connection.connect()
    return connection


def key_hash(sock: socket.socket | ssl.SSLSocket | None) -> bytes:
    """SHA-256 of the public key (SubjectPublicKeyInfo, DER) of the other side's certificate."""
    certificate = sock.getpeercert(binary_form=True) if isinstance(sock, ssl.SSLSocket) else None
    if not certificate:
        return b""
    key = x509.load_der_x509_certificate(certificate).public_key()
    return hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).digest()


def _why_not(error: ssl.SSLCertVerificationError) -> str:
    if error.verify_code in _BY_TIME:
        return (
            f"The certificate is not valid at this machine's time ({error.verify_message}). Set its clock; "
            "`backupsite-agent doctor` says how far it is off."
        )
    return (
        f"The certificate is not trusted: {error.verify_message}. When the control plane has a certificate authority "
        "of its own, name its file as `ca_file` in agent.toml."
    )
