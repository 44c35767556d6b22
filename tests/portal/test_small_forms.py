"""Small forms in rows and beside buttons: refused, they come again with what was typed, and say it at the field.

That it is so for each form is seen in the browser's round (tests/ui/form_rows.py).
"""

from __future__ import annotations

import re
from typing import Any

import pytest

from backups.models import StrayCopy
from tenants.models import ApprovalRule
from tests.factories import make_release, make_stray_copy
from tests.ui.form_rows import FORMS
from tests.worlds import World

pytestmark = pytest.mark.django_db

SMALL = (
    "alarms/<uuid:pk>/acknowledge/",
    "approvals/<uuid:pk>/decline/",
    "approvals/rules/",
    "backups/<uuid:pk>/serve/",
    "copies/<uuid:pk>/import/",
    "releases/<uuid:pk>/ring/",
    "servers/<uuid:pk>/source/",
    "tenants/<uuid:pk>/status/",
)


def send(world: World, address: str, **typed: Any) -> Any:
    return world.client("super").post(address, typed, format="multipart")


@pytest.mark.parametrize("route", SMALL)
def test_it_comes_again_with_what_was_typed_and_the_words_at_its_field(world: World, route: str) -> None:
    row, first = FORMS[route], route.split("/")[0]
    pk = str(world.ours.object_of(first).pk) if "<" in route else ""

    answer = send(world, "/" + route.replace("<uuid:pk>", pk), **row.typed)

    text, [name] = answer.content.decode(), row.fields
    [tag] = re.findall(rf'<(?:input|select)\b[^>]*name="{name}"[^>]*aria-invalid="true"[^>]*>', text)
    [field] = re.findall(r' id="([^"]+)"', tag)
    assert answer.status_code == 400
    assert tag.startswith("<select") or f'value="{row.typed[name]}"' in tag
    assert f"{field}_error" in re.findall(r'aria-describedby="([^"]+)"', tag)[0].split()
    assert f'id="{field}_error"' in text and f'<a href="#{field}">' in text
    assert text.count("form-errors") == 1


def test_only_the_row_that_was_refused_has_what_was_typed(world: World) -> None:
    other = make_release(percent=7)

    text = send(world, f"/releases/{world.ours.release.pk}/ring/", state="offered", percent=101).content.decode()

    assert text.count('aria-invalid="true"') == 1
    assert re.search(rf'name="percent" value="101"[^>]* id="percent-{world.ours.release.pk}"', text)
    assert re.search(rf'name="percent" value="7"[^>]* id="percent-{other.pk}"', text)


def test_a_copy_of_a_later_page_is_refused_on_that_page(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    make_stray_copy(world.ours.server)
    monkeypatch.setattr("tenants.views.ROWS_PER_PAGE", 1)
    oldest = StrayCopy.objects.order_by("created_at", "pk").first()
    page = StrayCopy.objects.count()
    assert oldest is not None and page > 1

    shown = world.client("super").get(f"/copies/?page={page}").content.decode()
    [address] = re.findall(rf'action="(/copies/{oldest.pk}/import/[^"]*)"', shown)
    refused = send(world, address, tenant="nobody").content.decode()

    assert f'id="tenant-{oldest.pk}_error"' in refused and "There is no such tenant." in refused


def test_what_cannot_be_done_now_is_said_above_though_no_field_is_wrong(world: World) -> None:
    tenant = world.ours.tenant

    text = send(world, f"/tenants/{tenant.pk}/status/", resume="1").content.decode()

    assert f"The tenant {tenant.name} is active." in text.partition("form-errors")[2].partition("</div>")[0]


def test_a_rule_of_no_known_kind_is_refused_and_keeps_its_tenant(world: World) -> None:
    answer = send(world, "/approvals/rules/", kind="nonsense", tenant=world.ours.tenant.title, required="on")

    assert answer.status_code == 400 and not ApprovalRule.objects.filter(kind="nonsense").exists()
    assert world.ours.tenant.title in answer.content.decode().partition('id="id_rule_tenant"')[0][-300:]
