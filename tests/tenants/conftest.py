"""A tenant with two administrators: one asks, the other may agree."""

from __future__ import annotations

import pytest

from tenants.models import Person, Tenant
from tests.factories import make_person, make_tenant


@pytest.fixture
def tenant(db: None) -> Tenant:
    return make_tenant()


@pytest.fixture
def first(tenant: Tenant) -> Person:
    return make_person("first", administers=[tenant])


@pytest.fixture
def second(tenant: Tenant) -> Person:
    return make_person("second", administers=[tenant])
