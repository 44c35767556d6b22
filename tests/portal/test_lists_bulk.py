"""What is done to many rows at once: each has a result of its own, and nobody reaches further than by one at a time."""

from __future__ import annotations

import uuid
from typing import Any

import pytest

from backups.models import Backup, Job
from backups.states import JobKind
from definitions.models import Definition
from tests.factories import make_backup, make_definition
from tests.worlds import World


def post(world: World, path: str, name: str = "admin_a", **data: Any) -> Any:
    return world.client(name).post(f"/{path}/bulk/", data, format="multipart")


def removed() -> set[uuid.UUID]:
    return set(Backup.objects.exclude(removed_at=None).values_list("pk", flat=True))


def results(answer: Any) -> dict[str, str]:
    return {str(result["id"]): result["code"] for _, result in answer.context["rows"]}


@pytest.fixture
def mixed(world: World) -> dict[str, Backup]:
    """What may be deleted, what is in use, and what belongs to others."""
    return {
        "good": make_backup(world.ours.server),
        "lost": make_backup(world.ours.other_server, status="lost"),
        "pending": make_backup(world.ours.server, status="pending"),
        "foreign": world.theirs.backup,
    }


def test_many_are_deleted_only_with_the_words_and_each_has_its_result(world: World, mixed: dict[str, Backup]) -> None:
    ids = [str(backup.pk) for backup in mixed.values()] + [str(uuid.uuid4()), "nonsense", str(mixed["good"].pk)]

    asked = post(world, "backups", ids=ids)
    text = asked.content.decode()
    assert (asked.status_code, removed()) == (200, set())
    assert "delete 5 backups" in text and "2 of them are not there for you" in text
    assert "stays: it is in use (pending)" in text and mixed["foreign"].name not in text
    for typed in ("", "delete 4 backups", "Delete 5 backups"):
        assert post(world, "backups", ids=ids, confirmation=typed).status_code == 400
        assert removed() == set()

    done = post(world, "backups", ids=ids, confirmation="delete 5 backups")

    codes = results(done)
    assert removed() == {mixed["good"].pk, mixed["lost"].pk}
    assert codes[str(mixed["good"].pk)] == codes[str(mixed["lost"].pk)] == "ok"
    assert codes[str(mixed["pending"].pk)] == "backup_in_use"
    assert codes[str(mixed["foreign"].pk)] == codes[ids[4]] == "not_found"
    assert "2 of 5 deleted." in done.content.decode()
    # Once more: what is gone is no error and is not deleted twice.
    assert removed() == {mixed["good"].pk, mixed["lost"].pk}


@pytest.mark.case("AZ-01")
@pytest.mark.parametrize("path", ["backups", "definitions"])
def test_an_owner_may_not_and_sees_nothing_to_choose(world: World, path: str) -> None:
    chosen = {"backups": world.ours.backup, "definitions": world.ours.definition}[path]
    more = {"backups": {"confirmation": "delete 1 backup"}, "definitions": {"action": "pause"}}[path]

    assert post(world, path, "owner_a1", ids=[str(chosen.pk)], **more).status_code == 403
    assert post(world, path, "anonymous", ids=[str(chosen.pk)], **more)["Location"].startswith("/login/")
    assert world.client("admin_a").get(f"/{path}/bulk/").status_code == 405
    assert removed() == set()
    assert 'name="ids"' not in world.client("owner_a1").get(f"/{path}/").content.decode()
    listed = world.client("admin_a").get(f"/{path}/").content.decode()
    assert f'name="ids" value="{chosen.pk}"' in listed and listed.count('id="bulk-form"') == 1


@pytest.mark.parametrize("path", ["backups", "definitions"])
def test_nothing_chosen_is_said(world: World, path: str) -> None:
    answer = post(world, path, action="pause")

    assert (answer.status_code, answer["Location"]) == (302, f"/{path}/")


def test_definitions_are_stopped_started_and_run(world: World) -> None:
    other = make_definition(world.ours.other_server)
    chosen = [world.ours.definition, other, world.theirs.definition]
    ids = [str(one.pk) for one in chosen]

    def active() -> list[bool]:
        return [Definition.objects.get(pk=one.pk).active for one in chosen]

    paused = results(post(world, "definitions", ids=ids, action="pause"))
    assert (list(paused.values()).count("ok"), paused[ids[2]]) == (2, "not_found")
    assert active() == [False, False, True]
    post(world, "definitions", ids=ids, action="resume")
    assert active() == [True, True, True]
    before = Job.objects.filter(kind=JobKind.BACKUP).count()
    ran = results(post(world, "definitions", ids=ids, action="backup-now"))
    assert Job.objects.filter(kind=JobKind.BACKUP).count() == before + list(ran.values()).count("ok")
    assert ran[ids[1]] == "ok" and ran[ids[2]] == "not_found"
    assert post(world, "definitions", ids=ids, action="explode").status_code == 302


def test_only_a_superadmin_spreads_and_is_told_what_stays(world: World) -> None:
    own = make_definition(world.ours.other_server)
    policy = world.ours.policy
    Definition.objects.filter(pk=world.ours.definition.pk).update(
        policy=policy, cron="59 3 * * *", time_zone=policy.time_zone
    )
    ids = [str(own.pk), str(uuid.uuid4()), str(world.ours.definition.pk)]

    assert post(world, "definitions", ids=ids, action="spread").status_code == 403
    assert 'value="spread"' not in world.client("admin_a").get("/definitions/").content.decode()
    spread = results(post(world, "definitions", "super", ids=ids, action="spread"))

    assert spread == {ids[0]: "unchanged", ids[1]: "not_found", ids[2]: "ok"}
    assert Definition.objects.get(pk=own.pk).cron == own.cron
    assert Definition.objects.get(pk=ids[2]).cron != "59 3 * * *"


def test_a_note_is_written_in_the_list(world: World) -> None:
    backup, htmx = world.ours.backup, {"HTTP_HX_REQUEST": "true"}
    client, address = world.client("admin_a"), f"/backups/{backup.pk}/note/"
    assert f'hx-get="{address}"' in client.get("/backups/").content.decode()
    assert "note-edit" not in world.client("owner_a1").get("/backups/").content.decode()

    form = client.get(address, **htmx).content.decode()
    assert "<html" not in form and f'hx-post="{address}"' in form
    too_long = client.post(address, {"note": "x" * 256}, format="multipart", **htmx)
    assert (too_long.status_code, "at most 255 characters" in too_long.content.decode()) == (200, True)
    kept = client.post(address, {"note": "<b>kept"}, format="multipart", **htmx).content.decode()
    assert "&lt;b&gt;kept" in kept and "The note is kept." in kept and "<form" not in kept
    assert Backup.objects.get(pk=backup.pk).note == "<b>kept"
    assert "<form" not in client.get(f"{address}?shown", **htmx).content.decode()

    # Without scripts the link leads to the page of the backup, which has the form.
    assert client.get(address)["Location"] == f"/backups/{backup.pk}/"
    assert world.client("owner_a1").get(address, **htmx).status_code == 403
    assert world.client("admin_b").get(address, **htmx).status_code == 404
