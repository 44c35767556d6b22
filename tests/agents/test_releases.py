"""Signed releases: taken in, offered ring by ring, and not again to who could not take one."""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import json
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from django.core.management import CommandError, call_command
from django.utils import timezone
from time_machine import travel

from agents.agent_messages import ReleaseManifest
from agents.answer_signing import is_release_signed, sign_release
from agents.models import Agent, Release
from agents.releases import import_release, place_in_ring, set_ring, standing_of_releases
from common.errors import ConflictError, InvalidInputError, NotAllowedError
from tenants.models import AuditEvent
from tests.agents.agent_worlds import Estate, enrolled
from tests.factories import make_person

pytestmark = [pytest.mark.django_db, pytest.mark.urls("tests.agents.both_urls")]
ROOT = Path(__file__).parents[2]
KEY = Ed25519PrivateKey.from_private_bytes(b"r" * 32)
PUBLIC = KEY.public_key().public_bytes_raw()


@pytest.fixture(autouse=True)
def release_key(settings: Any, tmp_path: Path) -> None:
    told = {"release_public_key": base64.b64encode(PUBLIC).decode(), "data": tmp_path}
    settings.CONFIG = settings.CONFIG.model_copy(update=told)


def built(folder: Path, *, number: int = 7, key: bytes = b"r" * 32, **changes: Any) -> dict[str, Any]:
    """What is handed to `import_release`."""
    content = b"program %d" % number
    file = folder / f"agent-{number}.pyz"
    file.write_bytes(content)
    told = {
        "number": number,
        "version": f"1.{number}",
        "file": file.name,
        "size_bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
        **changes,
    }
    manifest = msgspec.json.encode(ReleaseManifest(**told))
    return {"manifest": manifest, "signature": sign_release(private_key=key, manifest=manifest), "file": file}


def offered(folder: Path, *, number: int, percent: int = 100) -> Release:
    release = import_release(**built(folder, number=number), actor=None)
    return set_ring(release=release, state="offered", percent=percent, actor=make_person(superadmin=True))


def test_only_what_was_signed_is_taken_in_and_once(tmp_path: Path) -> None:
    good = built(tmp_path)
    for wrong in (
        built(tmp_path, key=b"x" * 32),
        built(tmp_path, size_bytes=1),
        built(tmp_path, sha256="0" * 64),
        built(tmp_path, file="../agent"),
        built(tmp_path, file=".hidden"),
        built(tmp_path, version=""),
        {**good, "manifest": good["manifest"] + b" "},
    ):
        with pytest.raises(InvalidInputError):
            import_release(**wrong, actor=None)
    assert not Release.objects.exists()

    release = import_release(**good, actor=None)

    assert (release.state, release.percent) == ("staged", 0)
    assert AuditEvent.objects.filter(action="release.import").count() == 1
    with pytest.raises(ConflictError):
        import_release(**good, actor=None)


def test_the_command_takes_what_the_build_signed(tmp_path: Path, capsys: Any) -> None:
    made = built(tmp_path)
    place = importlib.util.spec_from_file_location("agent_build", ROOT / "tools/agent/build.py")
    assert place is not None and place.loader is not None
    build = importlib.util.module_from_spec(place)
    place.loader.exec_module(build)
    (tmp_path / "key").write_bytes(b"r" * 32)
    facts = {**json.loads(made["manifest"]), "c_library": "glibc 2.28", "base": "bullseye"}
    build._sign(tmp_path, facts, tmp_path / "key")
    told = {"manifest": tmp_path / "manifest.json", "signature": tmp_path / "manifest.sig"}

    call_command("import_release", made["file"], **told)

    assert "1.7 (7) was taken in" in capsys.readouterr().out
    with pytest.raises(CommandError, match="already"):
        call_command("import_release", made["file"], **told)


def test_an_agent_gets_the_file_and_what_was_signed(tmp_path: Path) -> None:
    estate, release = enrolled(), offered(tmp_path, number=7)

    offer = estate.client.polled().update

    assert offer is not None
    assert is_release_signed(PUBLIC, manifest=offer.manifest, signature=offer.signature)
    name = msgspec.json.decode(offer.manifest, type=ReleaseManifest).file
    answer = estate.client.send("GET", f"/agent/v1/releases/{name}")
    assert b"".join(answer.streaming_content) == b"program 7"
    set_ring(release=release, state="withdrawn", percent=0, actor=make_person(superadmin=True))
    assert estate.client.send("GET", f"/agent/v1/releases/{name}").status_code == 404
    assert estate.client.send("GET", "/agent/v1/releases/..%2Fsecrets").status_code == 404
    assert estate.client.polled().update is None


def test_who_has_it_or_could_not_take_it_is_not_offered_it_again(tmp_path: Path) -> None:
    estate = enrolled()
    offered(tmp_path, number=7)
    assert estate.client.polled(version="1.6").update is not None

    # It has it, and then went back by itself.
    assert estate.client.polled(version="1.7").update is None
    assert Agent.objects.get().release_taken
    assert standing_of_releases() == {7: {"taken": 1}}
    assert estate.client.polled(version="1.6").update is None
    assert Agent.objects.get().release_failed == 7

    offered(tmp_path, number=8)
    assert estate.client.polled(version="1.6").update is not None
    assert estate.client.polled(version="1.6", problem_code="update_failed").update is None
    assert Agent.objects.get().release_failed == 8
    assert standing_of_releases() == {8: {"failed": 1}}


def polled_after(estate: Estate, *minutes: int, **more: Any) -> list[bool]:
    """Whether it was offered an update by its polls, so many minutes from now; they run the old version."""
    now, found = timezone.now(), []
    for minute in minutes:
        with travel(now + timedelta(minutes=minute)):
            found.append(estate.client.polled(version="1.6", **more).update is not None)
    return found


def test_who_polls_for_an_hour_with_nothing_to_do_and_stays_as_it_was_cannot_take_it(tmp_path: Path) -> None:
    estate = enrolled()
    offered(tmp_path, number=9)

    assert polled_after(estate, *range(0, 60, 4)) == [True] * 15
    assert polled_after(estate, 60, 61) == [False, False]

    assert Agent.objects.get().release_failed == 9
    assert standing_of_releases() == {9: {"failed": 1}}


def test_who_was_away_catches_up_and_then_has_its_hour(tmp_path: Path) -> None:
    estate = enrolled()
    offered(tmp_path, number=7)
    assert polled_after(estate, 0) == [True]

    three_days = 3 * 24 * 60
    assert polled_after(estate, three_days, three_days + 4) == [True, True]

    assert Agent.objects.get().release_failed == 0
    assert polled_after(estate, *range(three_days + 8, three_days + 60, 4)) == [True] * 13
    assert polled_after(estate, three_days + 60) == [False]
    assert Agent.objects.get().release_failed == 7


def test_who_was_away_for_longer_than_a_release_gets_the_newest(tmp_path: Path) -> None:
    estate = enrolled()
    offered(tmp_path, number=7)
    assert polled_after(estate, 0) == [True]
    offered(tmp_path, number=8)

    assert polled_after(estate, 3 * 24 * 60) == [True]

    agent = Agent.objects.get()
    assert (agent.release.number, agent.release_failed) == (8, 0)


def test_a_backup_of_hours_costs_no_update(tmp_path: Path) -> None:
    """An update waits for the job that is under way."""
    estate = enrolled()
    offered(tmp_path, number=7)
    minutes = range(0, 180, 4)

    assert polled_after(estate, *minutes, jobs=[str(uuid4())]) == [True] * len(minutes)
    assert polled_after(estate, 180, 184) == [True, True]

    assert Agent.objects.get().release_failed == 0
    with travel(timezone.now() + timedelta(minutes=188)):
        assert estate.client.polled(version="1.7").update is None
    assert standing_of_releases() == {7: {"taken": 1}}


@pytest.mark.parametrize("more", [{"problem_code": "update_rolled_back"}, {"problem_code": "update_failed"}])
def test_who_went_back_while_nobody_heard_of_it_is_not_offered_it_again(tmp_path: Path, more: dict[str, str]) -> None:
    estate = enrolled()
    offered(tmp_path, number=7)
    assert polled_after(estate, 0) == [True]

    assert polled_after(estate, 20, 21, jobs=[str(uuid4())], **more) == [False, False]

    assert Agent.objects.get().release_failed == 7


def test_a_larger_ring_has_the_smaller_one_in_it(tmp_path: Path) -> None:
    small = Release(number=3, percent=10)
    agents = [Agent(pk=uuid4()) for _ in range(2000)]

    places = [place_in_ring(agent, small) for agent in agents]

    assert 0.07 < sum(place < 10 for place in places) / 2000 < 0.13
    assert places == [place_in_ring(agent, Release(number=3, percent=90)) for agent in agents]
    release = offered(tmp_path, number=7, percent=0)
    with pytest.raises(InvalidInputError):
        set_ring(release=release, state="offered", percent=101, actor=make_person(superadmin=True))
    with pytest.raises(NotAllowedError):
        set_ring(release=release, state="offered", percent=1, actor=make_person())
    assert enrolled().client.polled().update is None
