"""Where the tools keep what they store: a folder of the local disk, or a bucket of the embedded object storage."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from backupsite.stack.secret_files import S3_IDENTITIES, S3Credential, new_credential
from backupsite.stack.weed import EmbeddedWeed
from backupsite.stack.weed_config import S3Identity, stack_identities
from tests.bench.measured import cpu_seconds_of

LOCKED_BUCKET, PEER_BUCKET = "ours", "peer"
_PEER = "peer"
_PEER_OBJECT_ACTIONS = ("s3:PutObject", "s3:GetObject", "s3:DeleteObject")
_PEER_BUCKET_ACTIONS = ("s3:ListBucket", "s3:GetBucketLocation")


class Place(Protocol):
    name: str

    def stored_bytes(self, tool: str) -> int:
        """Bytes of all that the tool has stored here so far."""
        ...

    def server_cpu_seconds(self) -> float:
        """CPU time of the storage's server until now."""
        ...


@dataclass(frozen=True, slots=True)
class LocalPlace:
    root: Path
    name: str = "local"

    def folder(self, tool: str) -> Path:
        return self.root / tool

    def stored_bytes(self, tool: str) -> int:
        return sum(path.stat().st_size for path in self.folder(tool).rglob("*") if path.is_file())

    def server_cpu_seconds(self) -> float:
        return 0.0


@dataclass(frozen=True, slots=True)
class BucketPlace:
    """Every tool has a bucket of its own; ours keeps locks, as it must."""

    url: str
    credentials: dict[str, S3Credential] = field(repr=False)
    server_pid: int
    client: Any = field(repr=False)
    name: str = "s3"

    def bucket(self, tool: str) -> str:
        return LOCKED_BUCKET if tool == "ours" else PEER_BUCKET

    def stored_bytes(self, tool: str) -> int:
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket(tool))
        return sum(entry["Size"] for page in pages for entry in page.get("Contents", []))

    def server_cpu_seconds(self) -> float:
        return cpu_seconds_of(self.server_pid)


@contextmanager
def bucket_place(folder: Path) -> Iterator[BucketPlace]:
    """Starts the embedded object storage with one bucket with locks and one without."""
    credentials = {name: new_credential() for name in (*S3_IDENTITIES, _PEER)}
    peer = S3Identity(_PEER, credentials[_PEER], _PEER_OBJECT_ACTIONS, _PEER_BUCKET_ACTIONS)
    with EmbeddedWeed(folder, identities=(*stack_identities(credentials), peer)) as weed:
        provisioner = s3_client(weed.url, credentials["provisioner"])
        provisioner.create_bucket(Bucket=LOCKED_BUCKET, ObjectLockEnabledForBucket=True)
        provisioner.create_bucket(Bucket=PEER_BUCKET)
        yield BucketPlace(weed.url, credentials, weed.child.pid, s3_client(weed.url, credentials["provisioner"]))


def s3_client(url: str, credential: S3Credential) -> Any:
    import boto3
    from botocore.config import Config

    return boto3.client(
        "s3",
        endpoint_url=url,
        region_name="us-east-1",
        aws_access_key_id=credential.access_key,
        aws_secret_access_key=credential.secret_key,
        config=Config(signature_version="s3v4", s3={"addressing_style": "path"}),
    )
