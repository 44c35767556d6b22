"""The looks at pages find what they are for: a page that is wrong on purpose."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import Browser, Route

from tests.ui import looking as looks
from tests.ui.looking import Looker, looking, needs_chromium

pytestmark = [pytest.mark.browser, pytest.mark.timeout(120), needs_chromium]
PAGE = "<!doctype html><html lang=en><meta charset=utf-8><style>body {{ margin: 0; font: 16px/1.2 sans-serif }} {css}"
PAGE += "</style><main><h1>Title</h1><p class=text>{text}</p></main>"
# The colours that the system says, as pages of the portal follow them.
FOLLOWS = """const dark = matchMedia("(prefers-color-scheme: dark)");
dark.onchange = () => { document.documentElement.dataset.bsTheme = dark.matches ? "dark" : "light"; };
dark.onchange();"""
WORDS = "Some words that go on for a while and then for a little more."


def faults(looker: Looker, css: str, text: str = WORDS) -> list[str]:
    looker.page.set_content(PAGE.format(css=css, text=text))
    looker._look_at_width(spaced=True)
    found, looker.faults[:] = list(looker.faults), []
    return [fault.partition(": ")[2] for fault in found]


def test_what_is_wrong_in_a_narrow_window_and_spaced_is_found(browser: Browser) -> None:
    with looking(browser) as looker:
        assert faults(looker, "") == []
        assert faults(looker, ".text { width: 330px }")[0].startswith("it is 330 wide, the window 320")
        # Fixed in a line, in height, or by hiding what is beyond.
        wide = faults(looker, ".text { white-space: nowrap }", "Words that almost fill it, all of it now")
        assert [fault for fault in wide if fault.startswith("spaced it is")]
        hidden = ".text { height: 3.6em; overflow: hidden }"
        [cut] = [fault for fault in faults(looker, hidden, WORDS * 2) if "360" in fault]
        assert "this is cut off: <p class=" in cut
        assert faults(looker, hidden.replace("hidden", "auto"), WORDS * 2) == []
        assert faults(looker, hidden.replace("hidden", "visible"), WORDS * 2)
        # Cut off whether it is spaced or not: that is meant, and its end is elsewhere.
        assert faults(looker, ".text { width: 5em; overflow: hidden; white-space: nowrap; margin: 0 }") == []


FORM = "<a href=/a>A</a><label>Day <input type=date></label><button class=btn-primary>Go</button><a href=/b>B</a>"
# Who comes to the button by Tab is held there.
HELD = "<script>document.querySelector('button').onkeydown = event => event.preventDefault()</script>"
# Or led past it.
PAST = (
    "<script>document.querySelector('input').onfocus = () => document.querySelector('[href=\"/b\"]').focus()</script>"
)


def by_keyboard(looker: Looker, text: str, css: str = "") -> list[str]:
    looker.page.set_content(PAGE.format(css=css, text=text))
    looker.look_at_whole_round()
    looker._look_at_keyboard()
    found, looker.faults[:] = list(looker.faults), []
    return [fault.partition(": ")[2] for fault in found]


def test_what_is_wrong_by_the_keyboard_is_found(browser: Browser) -> None:
    with looking(browser) as looker:
        assert by_keyboard(looker, FORM) == by_keyboard(looker, WORDS) == []
        held = by_keyboard(looker, FORM + HELD)
        assert held[0] == "after 20 times Tab the focus is still in the page"
        assert held[1].startswith("Tab does not come to <a href=")
        past = by_keyboard(looker, FORM + PAST)[0]
        assert past.startswith("Tab does not come to <") and "<button" in past
        [unseen] = by_keyboard(looker, FORM, ":focus { outline: none } a:focus { text-decoration: none }")
        assert unseen.startswith("nobody sees that this has the focus: <input") and "<a" not in unseen
        assert by_keyboard(looker, "<a href=/a>A</a>" * 90 + FORM) == ["80 times Tab do not reach the main button"]


def test_what_fails_leaves_pictures(browser: Browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(looks, "OUTPUT", tmp_path)
    with pytest.raises(AssertionError, match="it has 0 h1"), looking(browser) as looker:
        looker.page.set_content(f"<html lang=en><title>Nothing</title><script>{FOLLOWS}</script><p>no heading")
        looker.look()
    assert {path.name for path in tmp_path.iterdir()} == {
        "failed-test_what_fails_leaves_pictures-1.png",
        "failed-test_what_fails_leaves_pictures-end.png",
    }

    with pytest.raises(ZeroDivisionError), looking(browser) as looker:
        raise ZeroDivisionError
    # Of the last run alone.
    assert [path.name for path in tmp_path.iterdir()] == ["failed-test_what_fails_leaves_pictures-end.png"]


def serve(route: Route) -> None:
    """A page that fetches a part of itself, which is refused."""
    if route.request.url.endswith("/part/"):
        route.fulfill(status=403, body="no")
    else:
        part = "<script>fetch('/part/').then(() => document.querySelector('[hx-trigger]')?.remove())</script>"
        body = PAGE.format(css="", text=WORDS).replace("</main>", f"<p hx-trigger=load>Counting</p></main>{part}")
        route.fulfill(content_type="text/html", body=body)


def test_a_part_that_is_refused_is_a_fault(browser: Browser) -> None:
    with looking(browser) as looker:
        looker.page.route("http://portal.example.com/**", serve)
        for may_be_refused in (False, True):
            looker.may_be_refused = may_be_refused
            looker.page.goto("http://portal.example.com/")
            # It has been answered then.
            looker.wait_for_parts()
            found, looker.faults[:] = list(looker.faults), []
            assert [fault.partition(": ")[2] for fault in found if "/part/" in fault] == (
                [] if may_be_refused else ["http://portal.example.com/part/ answers 403"]
            )


def test_a_part_that_never_comes_is_a_fault(browser: Browser) -> None:
    with looking(browser) as looker:
        looker.page.set_content("<html lang=en><p hx-trigger=load>Counting")
        looker.page.set_default_timeout(500)
        looker.wait_for_parts()
        assert [fault.partition(": ")[2] for fault in looker.faults] == ["a part of the page never comes"]
        looker.faults.clear()


def test_the_check_of_the_project_leaves_no_browser_out() -> None:
    """`needs_chromium` skips nothing where CI is set; there one without a browser fails."""
    script = (Path(__file__).resolve().parents[2] / ".ci/run").read_text()

    assert "export CI=true\nmake test\n" in script
