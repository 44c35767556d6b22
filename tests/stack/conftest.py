"""Fixtures of the launcher's tests: real servers on free ports, small stand-in programs, no Django."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config

from backupsite.stack.process import Child, ChildSpec
from backupsite.stack.secret_files import S3_IDENTITIES, S3Credential, new_credential
from backupsite.stack.weed import EmbeddedWeed
from backupsite.stack.weed_config import S3Identity, stack_identities

MakeChild = Callable[..., Child]


@pytest.fixture
def make_child(tmp_path: Path) -> Iterator[MakeChild]:
    """Children that run a piece of Python; whatever is left of them is stopped at the end."""
    made: list[Child] = []

    def make(code: str, **options: Any) -> Child:
        # Far more than any of them takes: a test that waits for one of these times to end gives a short one itself.
        values: dict[str, Any] = {"name": "stand-in", "grace_seconds": 30.0, "ready_seconds": 60.0} | options
        argv = (sys.executable, "-u", "-c", code)
        spec = ChildSpec(argv=argv, env={"PATH": os.defpath}, cwd=tmp_path, log_directory=tmp_path, **values)
        made.append(Child(spec))
        return made[-1]

    yield make
    for child in made:
        child.stop()


@pytest.fixture(scope="session")
def weed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedWeed]:
    """A server with the stack's three keys and, only here, one that may do everything."""
    root = S3Identity(name="root", credential=new_credential(), object_actions=("s3:*",), bucket_actions=("s3:*",))
    identities = (*stack_identities({name: new_credential() for name in S3_IDENTITIES}), root)
    with EmbeddedWeed(tmp_path_factory.mktemp("weed"), identities=identities) as server:
        yield server


def s3_client(url: str, credential: S3Credential, *, attempts: int = 1) -> Any:
    return boto3.client(
        "s3",
        endpoint_url=url,
        aws_access_key_id=credential.access_key,
        aws_secret_access_key=credential.secret_key,
        region_name="us-east-1",
        config=Config(
            signature_version="s3v4",
            s3={"addressing_style": "path"},
            retries={"total_max_attempts": attempts, "mode": "standard"},
            read_timeout=120,
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        ),
    )


def eventually(condition: Callable[[], bool], *, seconds: float = 60.0) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def alive(pid: int) -> bool:
    """A zombie that nobody has collected yet is dead."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
