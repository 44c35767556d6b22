"""Limits of agents as a SuperAdmin types them: what is saved is what the form showed."""

from __future__ import annotations

from typing import Any

import pytest
from django.http import QueryDict
from hypothesis import given, settings
from hypothesis import strategies as st

from definitions.agent_limit_forms import AgentLimitsForm, initial_limits
from definitions.agent_limits import read_limits

HOURS = st.builds(
    lambda begin, end, mib: {"begin_hour": begin, "end_hour": end, "bytes_per_second": mib * 1024 * 1024},
    st.integers(0, 23),
    st.integers(1, 24),
    st.integers(0, 10_000),
)
LIMITS = st.fixed_dictionaries(
    {},
    optional={
        "allows_excludes": st.booleans(),
        "allows_hooks": st.booleans(),
        "allows_run_now": st.booleans(),
        "bandwidth": st.lists(HOURS, max_size=5),
        "cpu_weight": st.integers(1, 100),
        "idle_io": st.booleans(),
        "pause_on_battery": st.booleans(),
        "pause_above_load": st.integers(0, 10_000).map(float),
        "start_jitter_seconds": st.integers(0, 360).map(lambda minutes: minutes * 60),
    },
)


def posted(values: dict[str, Any]) -> AgentLimitsForm:
    """As a browser sends it: a box that is not ticked is not there."""
    body = QueryDict(mutable=True)
    body.update({name: str(value) for name, value in values.items() if value is not False})
    return AgentLimitsForm(body)


@given(limits=LIMITS)
@settings(max_examples=60, deadline=None)
def test_what_is_shown_and_saved_again_is_the_same(limits: dict[str, Any]) -> None:
    form = posted(initial_limits(limits))

    assert form.is_valid(), form.errors
    assert read_limits(form.cleaned_data["agent_limits"]) == read_limits(limits)
    # A later change of what is usual reaches those who left it as it was.
    assert posted(initial_limits({})).is_valid()


def test_what_is_usual_is_not_kept() -> None:
    form = posted(initial_limits({}))
    assert form.is_valid() and form.cleaned_data["agent_limits"] == {}


@pytest.mark.parametrize("line", ["8 to 18 5", "8-18", "25-26 5", "8-18 0.001", "8-18 five"])
def test_hours_that_are_none(line: str) -> None:
    form = posted({**initial_limits({}), "bandwidth_hours": line})
    assert not form.is_valid() and list(form.errors) == ["bandwidth_hours"]
