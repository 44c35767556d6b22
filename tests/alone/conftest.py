"""A real S3 server with Object Lock: one key that may do everything, and one that may only read, for the tool."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config

from backupsite.stack.secret_files import S3Credential, new_credential
from backupsite.stack.weed import EmbeddedWeed
from backupsite.stack.weed_config import S3Identity
from tests.alone.support import RECOVERY_KEY, BotoSink

READ_OBJECTS = ("s3:GetObject", "s3:GetObjectVersion", "s3:GetObjectRetention")
READ_BUCKET = ("s3:ListBucket", "s3:ListBucketVersions")
ROOT_OF_THE_CHECKOUT = Path(__file__).parents[2]

RunTool = Callable[..., "subprocess.CompletedProcess[bytes]"]
_numbers = count()


def s3_client(url: str, credential: S3Credential) -> Any:
    return boto3.client(
        "s3",
        endpoint_url=url,
        aws_access_key_id=credential.access_key,
        aws_secret_access_key=credential.secret_key,
        region_name="us-east-1",
        config=Config(
            signature_version="s3v4",
            s3={"addressing_style": "path"},
            retries={"max_attempts": 0},
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        ),
    )


@pytest.fixture(scope="session")
def weed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedWeed]:
    root = S3Identity(name="root", credential=new_credential(), object_actions=("s3:*",), bucket_actions=("s3:*",))
    reader = S3Identity(
        name="reader", credential=new_credential(), object_actions=READ_OBJECTS, bucket_actions=READ_BUCKET
    )
    with EmbeddedWeed(tmp_path_factory.mktemp("weed"), identities=(root, reader)) as server:
        yield server


@pytest.fixture
def sink(weed: EmbeddedWeed) -> BotoSink:
    """A fresh bucket with Object Lock."""
    client = s3_client(weed.url, weed.credentials["root"])
    bucket = f"vault-{next(_numbers)}"
    client.create_bucket(Bucket=bucket, ObjectLockEnabledForBucket=True)
    return BotoSink(client, bucket)


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    path = tmp_path / "recovery.key"
    path.write_text(f"# Acme\n{RECOVERY_KEY.encode()}\n")
    path.chmod(0o600)
    return path


@pytest.fixture
def tool(weed: EmbeddedWeed, tmp_path: Path, key_file: Path) -> RunTool:
    """Runs the tool as a process of its own that has the reader's key and an empty home; no Django settings."""
    credential = weed.credentials["reader"]

    def run(*words: str | Path, bucket: str) -> subprocess.CompletedProcess[bytes]:
        command = [sys.executable, "-m", "engine.alone", *map(str, words)]
        command += ["--bucket", bucket, "--endpoint-url", weed.url, "--recovery-key-file", str(key_file)]
        variables = {
            "PATH": os.defpath,
            "HOME": str(tmp_path),
            "AWS_ACCESS_KEY_ID": credential.access_key,
            "AWS_SECRET_ACCESS_KEY": credential.secret_key,
        }
        return subprocess.run(
            command,
            cwd=ROOT_OF_THE_CHECKOUT,
            env=variables,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=120,
            check=False,
        )

    return run
