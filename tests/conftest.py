"""Fixtures that every test may use."""

from __future__ import annotations

import pytest

from tests.worlds import World, make_world


@pytest.fixture
def world(db: None) -> World:
    """Two tenants with everything in them, and everybody who may or may not see it."""
    return make_world()
