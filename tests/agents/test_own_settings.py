"""What the server's own administrator may decide: the agent's half of it, whatever the control plane believes."""

from __future__ import annotations

import os
from contextlib import nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from agents.agent_messages import AgentPolicy
from agents.program.agent.hooks import HookError
from agents.program.agent.moving import MoveOrder, hooks_of, host_settings
from agents.program.agent.places import Places, Settings

OWN, OURS = ["/srv/cache/", "*.tmp"], ["/var/tmp/"]


def policy(**more: Any) -> AgentPolicy:
    return AgentPolicy(number=1, issued_at=datetime(2026, 1, 1, tzinfo=UTC), **more)


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        (policy(allows_excludes=True), OWN),
        (policy(allows_excludes=True, excludes=OURS), [*OURS, *OWN]),
        (policy(excludes=OURS), OURS),
        (policy(allows_excludes=False, allows_hooks=True), []),
        # Before there is a policy nothing is left out.
        (None, []),
    ],
)
def test_own_excludes_count_only_where_the_policy_allows_them(
    tmp_path: Path, told: AgentPolicy | None, expected: list[str]
) -> None:
    found = host_settings(Places.of(str(tmp_path)), Settings(excludes=OWN), told)

    assert list(found.excludes) == expected


def test_what_the_agent_itself_needs_and_never_reads(tmp_path: Path) -> None:
    places = Places.of(str(tmp_path))
    found = host_settings(places, Settings(root="/srv"), policy(excludes=OURS))

    assert (found.root, found.work, found.never) == ("/srv", places.state / "work", (str(places.state),))
    assert str(places.state) in found.needs and str(places.config) in found.needs


def order(places: Places, told: AgentPolicy | None, *, kind: str = "backup", **more: Any) -> MoveOrder:
    return MoveOrder(str(places.config), str(places.state), "job-1", kind, "", "", Settings(**more), told)


@pytest.fixture
def places(tmp_path: Path) -> Places:
    """With a hook that says that it ran."""
    places = Places.of(str(tmp_path / "home"))
    places.hooks.mkdir(parents=True, mode=0o700)
    hook = places.hooks / "pre-1"
    hook.write_text(f"#!/bin/sh\necho ran >> {tmp_path}/said\n")
    hook.chmod(0o700)
    return places


@pytest.mark.skipif(os.geteuid() != 0, reason="hooks belong to root")
@pytest.mark.parametrize(
    ("told", "kind", "own", "runs"),
    [
        (policy(allows_hooks=True), "backup", True, True),
        (policy(allows_hooks=True), "backup", False, False),
        (policy(allows_hooks=False), "backup", True, False),
        (policy(allows_excludes=True), "backup", True, False),
        (policy(allows_hooks=True), "restore", True, False),
        (None, "backup", True, False),
    ],
)
def test_hooks_run_only_where_the_policy_and_agent_toml_allow_them(
    tmp_path: Path, places: Places, told: AgentPolicy | None, kind: str, own: bool, runs: bool
) -> None:
    hold = hooks_of(places, order(places, told, kind=kind, hooks=own))
    assert runs or isinstance(hold, nullcontext)
    with hold:
        assert (tmp_path / "said").exists() is runs


@pytest.mark.skipif(os.geteuid() != 0, reason="gives a file away")
def test_a_hook_of_somebody_else_is_not_run(tmp_path: Path, places: Places) -> None:
    os.chown(places.hooks / "pre-1", 1000, 1000)

    allowed = order(places, policy(allows_hooks=True), hooks=True)
    with pytest.raises(HookError), hooks_of(places, allowed):
        pass
    assert not (tmp_path / "said").exists()
