"""Fixtures of the drivers' tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.drivers.libvirt_lab import Lab, missing_tools, running_lab


@pytest.fixture(scope="session")
def libvirt_lab() -> Iterator[Lab]:
    """A real libvirt; skips where its packages are missing."""
    if missing := missing_tools():
        pytest.skip(f"not installed: {', '.join(missing)}")
    with running_lab() as lab:
        yield lab


@pytest.fixture
def lab(libvirt_lab: Lab) -> Iterator[Lab]:
    """The same, without servers and disks."""
    yield libvirt_lab
    libvirt_lab.drop()
