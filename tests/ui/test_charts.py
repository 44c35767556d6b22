"""Charts of the first page in a real browser, with figures: that they are drawn, in both colours, and as what."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.core.cache import cache
from django.db import transaction
from django.utils import timezone
from playwright.sync_api import Browser, expect

from backups.figures import count_tenant
from tests.ui.looking import Looker, looking, needs_chromium
from tests.ui.test_every_page import let_in
from tests.worlds import World, make_world
from vaults.models import StoredObject

pytestmark = [
    pytest.mark.browser,
    pytest.mark.timeout(600),
    needs_chromium,
    pytest.mark.django_db(transaction=True),
]
LOCKED_DAYS = 20
DAYS_AGO = 10
# How high the line is: of columns at a tenth to nine tenths of what is drawn, the uppermost pixel with the line's
# colour (opaque and rather blue), as a part of the height. What is below it is faint, and so are the lines of the axes.
_HEIGHTS = """place => {
  const drawn = place.querySelector("canvas"), over = place.querySelector(".u-over");
  const scale = drawn.width / drawn.clientWidth;
  const [left, top] = [over.offsetLeft * scale, over.offsetTop * scale].map(Math.round);
  const [width, height] = [over.clientWidth * scale, over.clientHeight * scale].map(Math.round);
  const found = [];
  for (let tenth = 1; tenth < 10; tenth += 1) {
    const column = drawn.getContext("2d").getImageData(left + Math.round(width * tenth / 10), top, 1, height).data;
    let row = 0;
    while (row < height && !(column[row * 4 + 3] > 250 && column[row * 4 + 2] > column[row * 4] + 60)) row += 1;
    found.push(row / height);
  }
  return found;
}"""


def stored_world() -> World:
    """All that administrator A sees is locked until one day; a half of it is there for long, the other for ten days."""
    cache.clear()
    with transaction.atomic():
        world = make_world()
        now = timezone.now()
        until, long_ago = now + timedelta(days=LOCKED_DAYS), now - timedelta(days=100)
        assert StoredObject.objects.update(
            size_bytes=5 << 30, status="stored", version_id="1", retain_until=until, granted_at=long_ago
        )
        (later,) = StoredObject.objects.filter(vault__tenant=world.ours.tenant)
        later.pk, later.key, later.granted_at = None, "another", now - timedelta(days=DAYS_AGO)
        later.save(force_insert=True)
        count_tenant(world.ours.tenant, now=now)
    return world


def test_both_charts_are_drawn_and_locks_end_in_steps(browser: Browser, live_server: Any) -> None:
    world = stored_world()
    with looking(browser) as looker:
        page = looker.page
        let_in(looker, world.client("admin_a"), live_server.url)
        page.goto(live_server.url)
        expect(page.locator(".chart canvas")).to_have_count(2)
        # Each colour draws them anew, and in both axe and the console find nothing.
        looker.look()
        expect(page.locator(".chart canvas")).to_have_count(2)

        heights = heights_of(looker, "tail")

        # Nothing is unlocked on the way: it is as high on the ninth day in ten as on the first.
        assert max(heights[:9]) - min(heights[:9]) < 0.02 and 0 < heights[0] < 0.5, heights

        # Of thirty days as much came on the twentieth as had been there before; a twentieth above it is left free.
        heights = heights_of(looker, "growth")
        assert heights == pytest.approx([1 - 0.5 / 1.05] * 6 + [1 - 1 / 1.05] * 3, abs=0.03)


def heights_of(looker: Looker, figures: str) -> list[float]:
    found: list[float] = looker.page.locator(f'[data-chart="{figures}-figures"]').evaluate(_HEIGHTS)
    return found


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_charts_follow_light_and_dark(browser: Browser, live_server: Any, scheme: str) -> None:
    world = stored_world()
    with looking(browser) as looker:
        page = looker.page
        page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
        let_in(looker, world.client("admin_a"), live_server.url)
        page.goto(f"{live_server.url}/overview/days/")
        expect(page.locator(".chart canvas")).to_have_count(2)

        assert 0 < heights_of(looker, "tail")[0] < 0.5
        looker.look()
