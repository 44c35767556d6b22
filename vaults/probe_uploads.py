"""The probe's checks of uploads: checksums, conditions, multipart, and presigned uploads that were tampered with."""

from __future__ import annotations

import base64
import hashlib
import http.client
import ssl
from dataclasses import dataclass
from datetime import timedelta
from urllib.parse import urlsplit

from vaults.presign import BoundPut, ObjectPlace, presign_put
from vaults.probe_subject import ProbeFailedError, ProbeUnansweredError, Subject
from vaults.storage import Credential, signing_key_for
from vaults.tampering import UNSIGNED_EXTRAS, Upload, tampered

BODY = b"bytes of an upload that the probe signed itself"
_LIFETIME = timedelta(minutes=5)
_TIMEOUT_SECONDS = 5.0
_ANSWER_BYTES_MAX = 64 * 1024
_PART = b"one part"


@dataclass(frozen=True, slots=True)
class Checksums:
    """Which of the two the store compares with what arrives."""

    md5: bool
    sha256: bool


def check_checksums(subject: Subject) -> Checksums:
    """PutObject with a wrong Content-MD5, and with a wrong x-amz-checksum-sha256: one at least must be refused."""
    wrong_md5 = base64.b64encode(bytes(16)).decode()
    wrong_sha256 = base64.b64encode(bytes(32)).decode()
    md5 = subject.refusal("put_object", Key=subject.key("md5"), Body=b"x", ContentMD5=wrong_md5)
    sha256 = subject.refusal("put_object", Key=subject.key("sha256"), Body=b"x", ChecksumSHA256=wrong_sha256)
    if not md5 and not sha256:
        raise ProbeFailedError(
            "PutObject", "the store accepted bytes that fit neither their MD5 nor their SHA-256; it would keep damage."
        )
    return Checksums(md5=bool(md5), sha256=bool(sha256))


def conditional_create(subject: Subject) -> bool:
    """PutObject with If-None-Match: * where there is an object already: does the store refuse?"""
    subject.put("once", b"first")
    code = subject.refusal("put_object", Key=subject.key("once"), Body=b"second", IfNoneMatch="*")
    return code in {"PreconditionFailed", "412"}


def multipart_keeps_lock(subject: Subject) -> bool:
    """CreateMultipartUpload with lock headers: is the finished object locked? The service itself never uses it."""
    key = subject.key("multipart")
    try:
        upload = subject.call(
            "create_multipart_upload",
            Key=key,
            ObjectLockMode="COMPLIANCE",
            ObjectLockRetainUntilDate=subject.until(),
        )
        part = {"Key": key, "UploadId": upload["UploadId"]}
        tag = subject.call("upload_part", PartNumber=1, Body=_PART, **part)["ETag"]
        parts = {"Parts": [{"PartNumber": 1, "ETag": tag}]}
        subject.call("complete_multipart_upload", MultipartUpload=parts, **part)
        head = subject.call("head_object", by=Credential.KEEPER, Key=key)
    except ProbeFailedError:
        return False
    # The bucket's default would lock it as well, for days instead of seconds.
    until = head.get("ObjectLockRetainUntilDate")
    return head.get("ObjectLockMode") == "COMPLIANCE" and until is not None and until <= subject.until()


def check_tampering(subject: Subject) -> int:
    """Presigned PutObject: every variant is refused and leaves nothing, the true one is accepted. Returns how many."""
    granted = _signed(subject, "signed")
    attempts = [*tampered(granted), _signed(subject, "signed", age=_LIFETIME * 2, name="expired")]
    for attempt in attempts:
        status = _send(subject, attempt)
        if status < 400:
            finding = f"the store accepted a presigned upload that was tampered with ({attempt.name}: {status})."
            raise ProbeFailedError("presigned PutObject", finding)
    left = subject.call("list_object_versions", Prefix=granted_key(granted))
    if left.get("Versions") or left.get("DeleteMarkers"):
        raise ProbeFailedError("presigned PutObject", "the store refused tampered uploads, and yet kept one of them.")
    status = _send(subject, granted)
    if status != http.client.OK:
        finding = f"the store refuses what was signed rightly ({status}); is the endpoint's signing region right?"
        raise ProbeFailedError("presigned PutObject", finding)
    return len(attempts)


def granted_key(upload: Upload) -> str:
    """The key in a URL of path style, as the probe's own names need no decoding."""
    return urlsplit(upload.url).path.lstrip("/").partition("/")[2]


def replay_refused(subject: Subject) -> bool:
    """A presigned PutObject sent twice: is the second one refused, as its If-None-Match says?"""
    granted = _signed(subject, "replayed")
    return _send(subject, granted) == http.client.OK and _send(subject, granted) >= 400


def unsigned_extras_refused(subject: Subject) -> bool:
    """A presigned PutObject with further headers that the signature does not name: are all refused?"""
    statuses = []
    for number, (name, value) in enumerate(UNSIGNED_EXTRAS.items()):
        granted = _signed(subject, f"extra-{number}")
        headers = {**granted.headers, name: value}
        statuses.append(_send(subject, Upload(name, "PUT", granted.url, headers, granted.body)))
    return all(status >= 400 for status in statuses)


def _signed(subject: Subject, key: str, *, age: timedelta = timedelta(0), name: str = "granted") -> Upload:
    put = BoundPut(
        size_bytes=len(BODY),
        md5_base64=base64.b64encode(hashlib.md5(BODY, usedforsecurity=False).digest()).decode(),
        sha256_base64=base64.b64encode(hashlib.sha256(BODY).digest()).decode(),
        retain_until=subject.until(),
    )
    url = presign_put(
        signing_key=signing_key_for(subject.vault.endpoint, Credential.PROVISIONER),
        now=subject.clock.now() + subject.skew - age,
        place=ObjectPlace(subject.vault.endpoint.url, subject.bucket, subject.key(key)),
        put=put,
        lifetime=_LIFETIME,
    )
    return Upload(name, "PUT", url, put.headers(), BODY)


def _send(subject: Subject, upload: Upload) -> int:
    subject.check_time("presigned PutObject")
    try:
        return send(upload)
    except (OSError, http.client.HTTPException) as error:
        raise ProbeUnansweredError("presigned PutObject", "the store does not answer.") from error


def send(upload: Upload) -> int:
    """The status with which a store answers exactly these headers and bytes; over the bare protocol, for no client
    library would send some of them. Raises OSError or HTTPException when there is no answer."""
    parts = urlsplit(upload.url)
    connection = _connection(parts.scheme, parts.hostname or "", parts.port)
    try:
        connection.putrequest(upload.method, f"{parts.path}?{parts.query}", skip_accept_encoding=True)
        for name, value in upload.headers.items():
            connection.putheader(name, value)
        connection.endheaders()
        _send_body(connection, upload.body)
        answer = connection.getresponse()
        answer.read(_ANSWER_BYTES_MAX)
        return answer.status
    finally:
        connection.close()


def _connection(scheme: str, host: str, port: int | None) -> http.client.HTTPConnection:
    if scheme == "https":
        context = ssl.create_default_context()
        return http.client.HTTPSConnection(host, port, timeout=_TIMEOUT_SECONDS, context=context)
    return http.client.HTTPConnection(host, port, timeout=_TIMEOUT_SECONDS)


def _send_body(connection: http.client.HTTPConnection, body: bytes) -> None:
    try:
        connection.send(body)
    except (BrokenPipeError, ConnectionResetError):
        return  # It has answered before it read everything; the answer is what counts.
