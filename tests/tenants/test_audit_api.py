"""Reading the audit: who sees which records, filters, pages, CSV and the page of the portal."""

from __future__ import annotations

import csv
import io
from datetime import timedelta
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from tenants.audit import record
from tenants.audit_api import AuditEventViewSet
from tenants.audit_heads import check_audit, heads_file, published_heads
from tenants.models import AuditCheck, AuditEvent
from tests.factories import make_person
from tests.worlds import World

ADDRESS = "/api/v1/audit/"


def everything(client: Any, query: str = "") -> list[dict[str, Any]]:
    """All rows, page by page."""
    address, rows = f"{ADDRESS}?limit=7{query}", []
    while address:
        answer = client.get(address)
        assert answer.status_code == 200, answer.content
        rows += answer.json()["results"]
        address = answer.json()["next"]
    return rows


@pytest.mark.case("AZ-03")
def test_each_sees_the_records_of_his_tenants_and_no_others(world: World) -> None:
    ours, theirs = str(world.ours.tenant.pk), str(world.theirs.tenant.pk)

    seen = {name: {row["tenant"] for row in everything(world.client(name))} for name in ("super", "admin_a", "admin_b")}

    assert seen["super"] >= {ours, theirs, None}
    assert (seen["admin_a"], seen["admin_b"]) == ({ours}, {theirs})
    assert everything(world.client("owner_a1")) == []
    assert everything(world.client("owner_a1"), "&count=true") == []


def test_all_pages_together_hold_every_record_once(world: World) -> None:
    client = world.client("super")
    rows = everything(client)

    assert len(rows) > 7
    assert sorted(row["id"] for row in rows) == sorted(
        str(pk) for pk in AuditEvent.objects.values_list("pk", flat=True)
    )


@pytest.mark.parametrize(
    ("parameter", "field"),
    [
        ("actor", "actor_id"),
        ("actor_name", "actor_name"),
        ("actor_kind", "actor_kind"),
        ("action", "action"),
        ("outcome", "outcome"),
        ("object", "subject_id"),
        ("object_type", "subject_type"),
        ("request", "request_id"),
        ("address", "address"),
        ("tenant", "tenant"),
    ],
)
def test_filters(world: World, parameter: str, field: str) -> None:
    world.client("admin_a").delete(f"/api/v1/definitions/{world.ours.definition.pk}/")
    wanted = AuditEvent.objects.filter(action="definition.delete").get()
    value = getattr(wanted, "tenant_id" if field == "tenant" else field)

    rows = everything(world.client("super"), f"&{parameter}={value}")

    assert str(wanted.pk) in {row["id"] for row in rows}
    assert {row[field] for row in rows} == {str(value)}


def test_a_filter_does_not_reach_into_another_tenant(world: World) -> None:
    foreign = AuditEvent.objects.filter(tenant=world.theirs.tenant).first()

    assert foreign is not None
    assert everything(world.client("admin_a"), f"&object={foreign.subject_id}&tenant={world.theirs.tenant.pk}") == []
    assert everything(world.client("admin_a"), f"&actor={world.people['admin_b'].pk}") == []


def test_the_time_is_a_filter(world: World) -> None:
    later = (timezone.now() + timedelta(hours=1)).strftime("%Y-%m-%dT%H:%M:%SZ")

    assert everything(world.client("super"), f"&at_after={later}") == []
    assert everything(world.client("super"), f"&at_before={later}")


def test_nothing_can_be_written(world: World) -> None:
    client, event = world.client("super"), world.ours.object_of("audit")

    for method in ("post", "patch", "put", "delete"):
        assert getattr(client, method)(f"{ADDRESS}{event.pk}/", {}).status_code == 405
    assert client.post(ADDRESS, {}).status_code == 405


def test_csv_is_safe_and_holds_the_same_rows(world: World) -> None:
    record(action="test.done", subject=make_person("=cmd()"), tenant=world.ours.tenant)

    answer = world.client("admin_a").get(f"{ADDRESS}?format=csv")
    rows = list(csv.DictReader(io.StringIO(b"".join(answer.streaming_content).decode())))

    assert {row["id"] for row in rows} == {row["id"] for row in everything(world.client("admin_a"))}
    assert "'=cmd()" in {row["subject_name"] for row in rows}


def test_the_page_shows_what_changed(world: World) -> None:
    world.client("admin_a").patch(f"/api/v1/definitions/{world.ours.definition.pk}/", {"description": "<b>new</b>"})
    client = Client()
    client.force_login(world.people["admin_a"])

    text = client.get("/audit/?action=definition.edit").content.decode()

    assert "definition.edit" in text and "description" in text
    assert "&lt;b&gt;new&lt;/b&gt;" in text and "<b>new</b>" not in text
    assert "definition.create" not in text


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("actor=admin_a", True),
        ("actor=nobody", False),
        ("outcome=done", True),
        ("outcome=failed", False),
        ("subject=def-a", True),
        ("since=2999-01-01", False),
        ("until=2999-01-01", True),
        ("until=2000-01-01", False),
        # What is not understood lists nothing.
        ("since=nonsense", False),
        ("until=9999-12-31", False),
        ("actor=%00", False),
    ],
)
def test_the_page_has_filters(world: World, query: str, found: bool) -> None:
    world.client("admin_a").patch(f"/api/v1/definitions/{world.ours.definition.pk}/", {"description": "new"})
    client = Client()
    client.force_login(world.people["admin_a"])

    answer = client.get(f"/audit/?{query}")

    assert answer.status_code == 200
    assert ("definition.edit" in answer.content.decode()) is found


def test_the_page_of_a_superadmin_tells_of_a_broken_chain(world: World) -> None:
    AuditCheck.objects.create(at=timezone.now(), head_sequence=9, broken_at=4, reason="its content was changed")

    assert "broken at number 4" in world.client("super").get("/audit/").content.decode()
    assert "broken at number 4" not in world.client("admin_a").get("/audit/").content.decode()


def test_the_daily_look_publishes_the_head_of_a_whole_chain(db: None, settings: Any, tmp_path: Any) -> None:
    settings.CONFIG = settings.CONFIG.model_copy(update={"data": tmp_path})
    record(action="test.done")
    finding = check_audit(now=timezone.now())

    assert published_heads() == [(finding.head_sequence, finding.head_hash)] == [(1, finding.head_hash)]
    record(action="test.done")
    check_audit(now=timezone.now())
    assert [number for number, _ in published_heads()] == [1, 2]
    assert AuditCheck.objects.filter(broken_at=None).count() == 2


def test_the_daily_look_tells_of_a_head_that_is_not_there_any_more(
    db: None, settings: Any, tmp_path: Any, caplog: pytest.LogCaptureFixture
) -> None:
    settings.CONFIG = settings.CONFIG.model_copy(update={"data": tmp_path})
    record(action="test.done")
    check_audit(now=timezone.now())
    with heads_file().open("a") as file:
        file.write(f"2026-01-01T00:00:00+00:00 7 {'a' * 64}\nhalf a li")

    finding = check_audit(now=timezone.now())

    assert finding.broken is not None and finding.broken.sequence == 2
    assert AuditCheck.objects.latest("pk").broken_at == 2
    assert "tampered" in caplog.text
    assert len(published_heads()) == 2


def test_every_column_that_the_list_is_narrowed_by_has_an_index() -> None:
    model = AuditEvent._meta
    indexed = {model.get_field(index.fields[0]).name for index in model.indexes if index.condition is None}

    narrowed = {field.column for field in AuditEventViewSet.filters.values()}
    assert len(narrowed) >= 10
    assert {column.split("__")[0] for column in narrowed} <= indexed


def test_words_are_looked_for_in_the_last_time_unless_a_first_day_is_chosen(world: World) -> None:
    now = timezone.now()
    for days in (1, 120):
        AuditEvent(at=now - timedelta(days=days), action=f"old.{days}days", actor_kind="service").save()
    client = world.client("super")

    def found(query: str) -> set[str]:
        text = client.get(f"/audit/?{query}").content.decode()
        return {action for action in ("old.1days", "old.120days") if f">{action}<" in text}

    first_day = f"{now - timedelta(days=200):%Y-%m-%d}"
    assert found("") == found(f"action=old.&since={first_day}") == {"old.1days", "old.120days"}
    assert found("action=old.") == {"old.1days"}
    assert found(f"action=old.&until={now - timedelta(days=100):%Y-%m-%d}") == {"old.120days"}
    assert "For what is older choose a first day" in client.get("/audit/?action=old.").content.decode()
