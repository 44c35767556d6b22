"""Freezing the file systems of a definition's server: chosen in the form, kept, shown, and refused with the reason."""

from __future__ import annotations

import re
from typing import Any

import pytest

from agents.models import Disk
from definitions.models import Definition
from tests.factories import disk_of
from tests.portal.test_definitions import create, form
from tests.worlds import World

_WHY_NOT = "The driver of this disk reads it from outside and cannot freeze its file systems."


@pytest.fixture
def world(world: World) -> World:
    """The first tenant's disk is one of a guest with an agent; the other tenant's is read from outside."""
    Disk.objects.filter(pk=disk_of(world.ours.server).pk).update(driver="libvirt")
    return world


def box_of(text: str) -> str:
    [tag] = re.findall(r'<input[^>]*name="freeze_filesystem"[^>]*>', text)
    return str(tag)


def page(world: World, address: str, name: str = "super") -> str:
    return str(world.client(name).get(address).content.decode())


def change(world: World, definition: Definition, **typed: Any) -> Any:
    return world.client("super").post(f"/definitions/{definition.pk}/edit/", form(world, **typed), format="multipart")


def test_it_is_chosen_kept_by_an_edit_and_taken_back(world: World) -> None:
    answer = create(world, form(world, freeze_filesystem="on"))
    made = Definition.objects.get(name="new")
    address = f"/definitions/{made.pk}/"
    assert (answer["Location"], made.freeze_filesystem) == (address, True)
    assert "yes, by the QEMU guest agent" in page(world, address, "owner_a1")

    editing = page(world, f"{address}edit/")
    assert " checked" in box_of(editing) and " disabled" not in box_of(editing)
    # What it holds opens the part that it stands in.
    assert '<details class="mb-3" open><summary>Advanced' in editing
    change(world, made, cron="15 3 * * *", freeze_filesystem="on")
    made.refresh_from_db()
    assert (made.cron, made.freeze_filesystem) == ("15 3 * * *", True)

    change(world, made)
    made.refresh_from_db()
    assert made.freeze_filesystem is False
    assert "yes, by the QEMU guest agent" not in page(world, address)


def test_where_it_cannot_be_chosen_the_form_says_why(world: World) -> None:
    can, cannot = disk_of(world.ours.server), disk_of(world.theirs.server)
    edit = f"/definitions/{world.theirs.definition.pk}/edit/"

    for address in (f"/definitions/new/?disk={cannot.pk}", f"/definitions/places/?disk={cannot.pk}", edit):
        text = page(world, address)
        assert " disabled" in box_of(text) and "why-not-freeze" in box_of(text), address
        assert f'id="why-not-freeze">It cannot be chosen: {_WHY_NOT}' in text, address
    # Before a disk is chosen, and for one that can.
    for address in ("/definitions/new/", f"/definitions/new/?disk={can.pk}", f"/definitions/places/?disk={can.pk}"):
        text = page(world, address)
        assert " disabled" not in box_of(text) and _WHY_NOT not in text, address


def test_another_disk_brings_the_box_along_and_a_tick_that_still_means_something(world: World) -> None:
    can, cannot = disk_of(world.ours.server), disk_of(world.theirs.server)

    kept = page(world, f"/definitions/places/?disk={can.pk}&freeze_filesystem=on")
    gone = page(world, f"/definitions/places/?disk={cannot.pk}&freeze_filesystem=on")

    assert 'id="freeze" hx-swap-oob="true"' in kept and " checked" in box_of(kept)
    assert " checked" not in box_of(gone) and " disabled" in box_of(gone)
    assert "hx-swap-oob" not in page(world, "/definitions/new/")


def test_what_is_refused_is_said_at_the_box_and_nothing_is_kept(world: World) -> None:
    cannot = disk_of(world.theirs.server)

    refused = create(world, form(world, disk=str(cannot.pk), freeze_filesystem="on"), "super")
    changed = change(world, world.theirs.definition, freeze_filesystem="on")

    for answer in (refused, changed):
        text = answer.content.decode()
        assert answer.status_code == 400 and answer.context["form"].errors == {"freeze_filesystem": [_WHY_NOT]}
        assert 'aria-invalid="true"' in box_of(text) and "id_freeze_filesystem_error" in box_of(text)
        assert f'id="id_freeze_filesystem_error"><div>{_WHY_NOT}' in text
        # So that it can be taken back.
        assert " checked" in box_of(text) and " disabled" not in box_of(text)
    assert not Definition.objects.filter(name="new").exists()
    assert not Definition.objects.filter(freeze_filesystem=True).exists()


def test_help_with_the_schedule_keeps_the_box_as_it_is(world: World) -> None:
    typed = form(world, freeze_filesystem="on", help="1", often="weekdays", at="05:10")

    assert " checked" in box_of(create(world, typed).content.decode())
    del typed["freeze_filesystem"]
    assert " checked" not in box_of(create(world, typed).content.decode())

    # Also one that was taken away from what is stored.
    Definition.objects.filter(pk=world.ours.definition.pk).update(freeze_filesystem=True)
    assert " checked" not in box_of(change(world, world.ours.definition, **typed).content.decode())
