"""Releases are told apart by their numbers: several may have one version."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.utils import timezone
from time_machine import travel

from agents.models import Agent, Release
from agents.releases import import_release, set_ring, standing_of_releases
from tests.agents.agent_worlds import Estate, enrolled
from tests.agents.test_releases import built, release_key
from tests.factories import make_person

pytestmark = [pytest.mark.django_db, pytest.mark.urls("tests.agents.both_urls")]
__all__ = ["release_key"]  # the fixture


def offered(folder: Path, *, number: int, version: str = "1.0") -> Release:
    release = import_release(**built(folder, number=number, version=version), actor=None)
    return set_ring(release=release, state="offered", percent=100, actor=make_person(superadmin=True))


def is_offered(estate: Estate, **more: Any) -> bool:
    return estate.client.polled(version="1.0", **more).update is not None


def test_another_number_of_the_same_version_is_offered_until_it_runs(tmp_path: Path) -> None:
    estate = enrolled()
    offered(tmp_path, number=7)

    assert is_offered(estate, release=6)
    assert not Agent.objects.get().release_taken
    assert not is_offered(estate, release=7)

    assert standing_of_releases() == {7: {"taken": 1}}
    offered(tmp_path, number=8)
    assert is_offered(estate, release=7)


def test_nothing_older_than_what_runs_is_offered_and_it_failed_for_nobody(tmp_path: Path) -> None:
    estate = enrolled()
    offered(tmp_path, number=7, version="2.0")
    assert is_offered(estate, release=6)

    # A person installed one that is not offered.
    assert not is_offered(estate, release=9)

    assert not is_offered(estate, release=9) and standing_of_releases() == {}
    assert Agent.objects.get().release_failed == 0
    offered(tmp_path, number=10, version="2.0")
    assert is_offered(estate, release=9)
    assert not is_offered(estate, release=2**40)


@pytest.mark.parametrize("says_why", [True, False])
def test_one_that_went_back_within_a_version_is_noticed_and_left_alone(tmp_path: Path, says_why: bool) -> None:
    estate = enrolled()
    offered(tmp_path, number=7)
    assert is_offered(estate, release=6) and not is_offered(estate, release=7)

    with travel(timezone.now() + timedelta(minutes=0 if says_why else 10)):
        assert not is_offered(estate, release=6, problem_code="update_failed" if says_why else "")
        assert not is_offered(estate, release=6)

    assert standing_of_releases() == {7: {"failed": 1}}


def test_one_that_tells_no_number_is_offered_another_version(tmp_path: Path) -> None:
    estate = enrolled()
    offered(tmp_path, number=7)
    assert not is_offered(estate)
    offered(tmp_path, number=8, version="2.0")
    assert is_offered(estate)
