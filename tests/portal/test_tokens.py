"""The page Tokens: whose tokens are seen there, and who may end or replace them."""

from __future__ import annotations

import pytest

from tests.worlds import World

NAMES = ["super", "admin_a", "admin_b", "owner_a1", "owner_a2"]


def test_the_list_shows_ones_own_and_a_superadmin_all(world: World) -> None:
    for name in NAMES:
        shown = {row.person_id for row in world.client(name).get("/tokens/").context["listed"].rows}
        own = {world.people[name].pk} & {token.person_id for token in (world.ours.token, world.theirs.token)}
        everybodys = {world.ours.token.person_id, world.theirs.token.person_id}
        assert shown == (everybodys if name == "super" else own)


@pytest.mark.parametrize("verb", ["end", "rotate"])
def test_only_its_person_and_a_superadmin_reach_a_token(world: World, verb: str) -> None:
    token = world.ours.token
    for name in NAMES:
        if name == "super" or world.people[name].pk == token.person_id:
            continue
        assert world.client(name).post(f"/tokens/{token.pk}/{verb}/").status_code == 404
    token.refresh_from_db()
    assert token.disabled_at is None

    assert world.client("super").post(f"/tokens/{token.pk}/end/").status_code == 302

    token.refresh_from_db()
    assert token.disabled_at is not None
