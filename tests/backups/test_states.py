"""The table of job states."""

from __future__ import annotations

import pytest

from backups.states import ACTIVE, FINAL, JobState, may_follow, states_before


def test_every_state_is_either_active_or_final() -> None:
    assert set(JobState) == ACTIVE | FINAL
    assert not ACTIVE & FINAL


@pytest.mark.parametrize("final", sorted(FINAL))
def test_nothing_follows_a_final_state(final: JobState) -> None:
    assert not [after for after in JobState if may_follow(final, after)]


def test_a_job_ends_well_only_from_running() -> None:
    assert states_before(JobState.OK) == [JobState.RUNNING]


def test_a_waiting_job_can_be_canceled() -> None:
    assert set(states_before(JobState.CANCELED)) == {JobState.PENDING, JobState.RUNNING}
