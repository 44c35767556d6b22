"""`manage.py seed_fleet`: fills an empty database with a made-up fleet, for measuring. Never for one that is in use."""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Iterator
from datetime import UTC, datetime
from random import Random
from time import monotonic
from typing import Any

from django.apps import apps
from django.core.management.base import BaseCommand, CommandError
from django.db import connection, models
from django.utils import timezone

from backupsite.seeding.agents import write_agents
from backupsite.seeding.figures import write_figures
from backupsite.seeding.people import write_people
from backupsite.seeding.places import write_places
from backupsite.seeding.records import write_records
from backupsite.seeding.rules import write_rules
from backupsite.seeding.shape import Shape
from backupsite.seeding.work import write_work
from backupsite.seeding.writing import references_unchecked

OWN_APPS = ("tenants", "vaults", "agents", "definitions", "backups")


class Command(BaseCommand):
    help = "Fills an empty, migrated database with tenants, people, servers and backups that do not exist."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--tenants", type=int, default=1_000)
        parser.add_argument("--servers", type=int, default=100_000)
        parser.add_argument("--backups", type=int, default=1_000_000)
        parser.add_argument("--seed", type=int, default=4, help="the same number makes the same rows")
        parser.add_argument("--at", default="", help="the fleet's present, such as 2026-11-20; now if not given")

    def handle(self, *args: Any, tenants: int, servers: int, backups: int, seed: int, at: str, **options: Any) -> None:
        if not 1 <= tenants <= servers <= backups:
            raise CommandError("There must be at least one tenant, a server for each, and a backup for each of these.")
        present = next(_present_rows(), None)
        if present is not None:
            raise CommandError(
                f"This database holds {present._meta.verbose_name_plural} already. "
                "A made-up fleet goes into an empty one only, fresh from `manage.py migrate`."
            )
        shape = Shape(tenants=tenants, servers=servers, backups=backups, seed=seed, at=_moment(at))
        began = monotonic()
        with references_unchecked():
            self._write(shape, Random(seed), began)  # noqa: S311  # made-up rows, no secrets
        with connection.cursor() as cursor:
            cursor.execute("ANALYZE")
        self._tell("done", began)

    def _write(self, shape: Shape, random: Random, began: float) -> None:
        self._tell("places", began)
        places = write_places(shape, random)
        self._tell("people", began)
        write_people(shape, random, places)
        self._tell("backups and jobs", began)
        write_work(shape, random, places)
        self._tell("agents and rules", began)
        write_agents(shape, random, places)
        write_rules(shape, random, places)
        self._tell("records", began)
        write_records(shape, random, places)
        self._tell("figures", began)
        write_figures(shape)

    def _tell(self, step: str, began: float) -> None:
        self.stdout.write(f"{monotonic() - began:7.1f} s  {step}")
        self.stdout.flush()


def _present_rows() -> Iterator[type[models.Model]]:
    """The models of ours that have rows."""
    for app in OWN_APPS:
        yield from (model for model in apps.get_app_config(app).get_models() if model._default_manager.exists())


def _moment(text: str) -> datetime:
    if not text:
        return timezone.now().replace(microsecond=0)
    try:
        return datetime.fromisoformat(text).replace(tzinfo=UTC)
    except ValueError as error:
        raise CommandError("--at is a date, such as 2026-11-20.") from error
