"""The tests of the database's rules once more, on a real PostgreSQL: a throw-away cluster that is not run as root.

Named here is what leans on the database: locks, constraints, triggers, counts, order, and what happens at once.
"""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.postgres.cluster import PROGRAMS, scratch_cluster

ROOT = Path(__file__).resolve().parents[2]
# One run of pytest. The two of this folder first: plans need a database that holds nothing yet.
AGAIN = [
    "tests/postgres/test_second_wall.py",
    "tests/postgres/test_list_plans.py",
    "tests/backups/test_dispatch.py",
    "tests/backups/test_dispatch_at_once.py",
    "tests/backups/test_server_moves.py",
    "tests/backups/test_server_regions.py",
    "tests/backups/test_node_load.py",
    "tests/backups/test_vault_removal.py",
    "tests/tenants/test_deletion.py",
    "tests/tenants/test_people.py",
    "tests/tenants/test_quota_races.py",
    "tests/tenants/test_suspension.py",
    "tests/tenants/test_approvals.py",
    "tests/tenants/test_approvals_order.py",
    "tests/tenants/test_approvals_persons.py",
    "tests/tenants/test_audit_chain.py",
    "tests/tenants/test_audit_seal.py",
    "tests/tenants/test_joining.py",
    "tests/tenants/test_notices_outbox.py",
    "tests/api/test_paging.py",
    "tests/api/test_idempotency.py",
    "tests/api/test_etags.py",
    "tests/api/test_concurrent_requests.py",
    "tests/portal/test_sign_in_factors.py",
    "tests/portal/test_sign_in_sessions.py",
    "tests/tenants/test_tokens.py",
    "tests/agents/test_replay_race.py",
]
pytestmark = [
    pytest.mark.postgres,
    pytest.mark.long,
    pytest.mark.timeout(2400),
    pytest.mark.skipif(not PROGRAMS, reason="no PostgreSQL server: apt-get install postgresql"),
]


@pytest.fixture(scope="module")
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


def test_every_file_is_there_once() -> None:
    assert len(AGAIN) == len(set(AGAIN))
    assert all((ROOT / path).is_file() for path in AGAIN)


def test_each_file_of_this_folder_runs_alone_too() -> None:
    """pytest-django makes the databases that a mark asks for; a fixture of the module asks for none."""
    for path in [path for path in AGAIN if path.startswith("tests/postgres/")]:
        module = importlib.import_module(path.removesuffix(".py").replace("/", "."))
        assert "django_db" in {mark.name for mark in module.pytestmark}, path
