"""The tests of the database's rules once more, on a real PostgreSQL: a throw-away cluster that is not run as root."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.postgres.cluster import PROGRAMS, scratch_cluster

ROOT = Path(__file__).resolve().parents[2]
AGAIN = [
    "tests/backups/test_dispatch.py",
    "tests/backups/test_backup_path.py",
    "tests/backups/test_server_moves.py",
    "tests/api/test_hidden.py",
    "tests/tenants/test_deletion.py",
    "tests/tenants/test_people.py",
    "tests/tenants/test_quota_races.py",
    "tests/tenants/test_suspension.py",
]
pytestmark = [
    pytest.mark.postgres,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not PROGRAMS, reason="no PostgreSQL server: apt-get install postgresql"),
]


@pytest.fixture
def postgresql_url() -> Iterator[str]:
    with scratch_cluster() as url:
        yield url


def test_the_rules_of_the_database_hold_on_postgresql_too(postgresql_url: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *AGAIN],
        cwd=ROOT,
        env={**os.environ, "TEST_DATABASE_URL": postgresql_url, "NO_PROXY": "127.0.0.1"},
        capture_output=True,
        text=True,
    )

    assert done.returncode == 0, done.stdout[-6000:]
    assert " passed" in done.stdout and " skipped" not in done.stdout
