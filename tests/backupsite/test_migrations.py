"""A database from before the first release is refused before anything in it is touched."""

from __future__ import annotations

from importlib import import_module
from types import SimpleNamespace

import pytest
from django.apps import apps
from django.db import connection


def test_a_database_of_an_unreleased_version_is_refused_with_the_way_out(db: None) -> None:
    tables = import_module("tenants.migrations.0001_tables")
    assert tables.Migration.operations[0].code is tables.refuse_a_former_database

    with pytest.raises(RuntimeError, match="rebuild_catalogue"):
        tables.refuse_a_former_database(apps, SimpleNamespace(connection=connection))
