"""What is looked for on a page that a real browser shows: axe-core's faults, the console, its width, the keyboard."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

import pytest
from axe_playwright_python.base import AXE_FILE_PATH
from playwright.sync_api import Browser, Page, Response, ViewportSize, expect
from playwright.sync_api import Error as PlaywrightError

CHROMIUM = Path("/usr/bin/chromium")
OUTPUT = Path(__file__).resolve().parents[1] / "output"
DOCS = Path(__file__).resolve().parents[2] / "docs"
# What shows pictures that the tests make.
GUIDES = (DOCS / "first-steps.md", DOCS / "portal.md")
WIDE: ViewportSize = {"width": 1280, "height": 800}
PHONE: ViewportSize = {"width": 360, "height": 740}
# WCAG 1.4.10: 1280 pixels with everything four times as large.
NARROW: ViewportSize = {"width": 320, "height": 740}
# Nobody may take a run without a browser for a good one where the project itself is checked.
needs_chromium = pytest.mark.skipif(
    not CHROMIUM.exists() and "CI" not in os.environ, reason="chromium is not installed: apt-get install chromium"
)
# What the browser itself notes of an answer that is no success; of what a page loads, and of the parts that its scripts
# fetch, it is a fault all the same.
_NOTE = "Failed to load resource: the server responded with a status of 4"
_FETCHED = {"xhr", "fetch"}
_LOADED = {"script", "stylesheet", "font", "image"} | _FETCHED
_AXE = Path(AXE_FILE_PATH).read_text()
_RUN_AXE = """async rules => {
  const options = { resultTypes: ["violations"], elementRef: false };
  if (rules.length) options.runOnly = { type: "rule", values: rules };
  const found = await axe.run(document, options);
  return found.violations
    .filter(fault => ["serious", "critical"].includes(fault.impact))
    .map(fault => `${fault.impact} ${fault.id}: ` + fault.nodes.slice(0, 3).map(node =>
      node.html.slice(0, 160) + " " + [...node.any, ...node.all, ...node.none].map(check => check.message).join("; ")
    ).join(" | "));
}"""
# Two pages of the same elements, classes and attributes have the same faults.
_SHAPE = """selector => Array.from(document.querySelectorAll(selector), element => [
  element.tagName, element.getAttribute("class"), element.hasAttribute("id"),
  ...element.getAttributeNames().filter(name => !["class", "href", "value", "id", "title", "datetime"].includes(name))
  ].join(" "))
  .filter((line, at, all) => all.indexOf(line) === at).join("\\n")"""
_TOO_WIDE = """() => Array.from(document.querySelectorAll("main *"))
  .filter(element => element.getBoundingClientRect().right > innerWidth + 1)
  .filter(element => !element.parentElement.closest(".table-responsive"))
  .slice(0, 3).map(element => element.outerHTML.slice(0, 120)).join(" | ")"""
# WCAG 1.4.12: people may space text so, by a sheet of their own (no policy of the page forbids one of the browser's).
# What is cut off then and was not before: by a box that hides what is beyond it, or by sticking out of one whose height
# is fixed. What can be scrolled is not cut off, nor is a field that can be gone through.
_SPACED = """() => {
  const fields = ["INPUT", "TEXTAREA", "SELECT", "OPTION"];
  const hides = axis => ["hidden", "clip"].includes(axis);
  const isCut = element => {
    const style = getComputedStyle(element), isTall = element.scrollHeight > element.clientHeight + 1;
    if (hides(style.overflowX) && element.scrollWidth > element.clientWidth + 1) return true;
    if (hides(style.overflowY)) return isTall;
    return style.overflowY === "visible" && isTall && !style.display.startsWith("inline")
      && [...element.childNodes].some(node => node.nodeType === Node.TEXT_NODE && node.data.trim());
  };
  const seen = [...document.querySelectorAll("body, body *")].filter(element => element.textContent.trim()
    && !fields.includes(element.tagName) && !(element instanceof SVGElement) && element.checkVisibility()
    && !element.matches(".visually-hidden, .skip-link"));
  const before = new Set(seen.filter(isCut));
  const sheet = new CSSStyleSheet();
  sheet.replaceSync(`* { line-height: 1.5 !important; letter-spacing: .12em !important; word-spacing: .16em !important }
    p { margin-block-end: 2em !important }`);
  document.adoptedStyleSheets = [sheet];
  const cut = seen.filter(element => isCut(element) && !before.has(element));
  const width = document.documentElement.scrollWidth;
  document.adoptedStyleSheets = [];
  return { width, cut: cut.slice(0, 3).map(element => element.outerHTML.slice(0, 160)) };
}"""
_OPEN = """document.querySelectorAll("main details").forEach(part => { part.open = true; })"""
# Of all that Tab comes to, what looks the same with the focus; asked after a key, so that the browser shows it as for
# somebody with a keyboard. Another shade of the ground would be seen by few: an outline, a shadow or a line counts.
_UNSEEN_FOCUS = """() => {
  const look = element => {
    const style = getComputedStyle(element);
    const outline = style.outlineStyle === "none" ? "" : style.outline;
    return [outline, style.boxShadow, style.borderColor, style.textDecorationLine].join();
  };
  const found = [...document.querySelectorAll("a[href], button, input, select, textarea, summary, [tabindex]")]
    .filter(element => element.tabIndex >= 0 && !element.disabled && element.checkVisibility())
    .filter(element => {
      document.activeElement.blur();
      const before = look(element);
      element.focus();
      return element === document.activeElement && look(element) === before;
    });
  document.activeElement.blur();
  return found.slice(0, 3).map(element => element.outerHTML.slice(0, 120)).join(" | ");
}"""
# What Tab has to come to: of radio buttons of one name, the chosen one or the first.
_TABBED = """() => {
  window.tabbed = [...document.querySelectorAll("a[href], button, input, select, textarea, summary, [tabindex]")]
    .filter(element => element.tabIndex >= 0 && !element.disabled && element.checkVisibility())
    .filter((element, at, all) => element.type !== "radio" || element === (all.find(other => other.checked
      && other.name === element.name) || all.find(other => other.name === element.name)));
  return window.tabbed.length;
}"""
_LEFT_OUT = """places => window.tabbed.filter((element, at) => !places.includes(at))
  .slice(0, 3).map(element => element.outerHTML.slice(0, 120)).join(" | ")"""
# How a form that was refused says so, in this text of a page, or on the page that is shown (null).
_REFUSED = """text => {
  const doc = text === null ? document : new DOMParser().parseFromString(text, "text/html");
  const isShown = element => text === null ? element.checkVisibility()
    : !element.closest("[hidden], details:not([open])");
  const focused = text === null ? document.activeElement : doc.querySelector("[autofocus]");
  const faults = [], summary = doc.querySelector(".form-errors");
  const fault = (what, element) => faults.push(what + ": " + (element ? element.outerHTML.slice(0, 160) : ""));
  const says = element => element !== null && (element.getAttribute("aria-describedby") || "").split(" ")
    .map(id => doc.getElementById(id))
    .some(said => said && said.id.endsWith("error") && isShown(said) && said.textContent.trim() !== "");
  if (summary === null || summary.textContent.trim() === "") fault("nothing says above the form what is wrong");
  else if (focused !== summary) fault("the focus is elsewhere", focused);
  const led = Array.from(summary ? summary.querySelectorAll("a") : [],
    link => doc.getElementById(link.getAttribute("href").slice(1)));
  for (const target of led) {
    if (target === null || !isShown(target)) fault("a link above the form leads nowhere", summary);
    else if (!says(target)) fault("no text at the field says what is wrong", target);
  }
  const wrong = [...doc.querySelectorAll("[aria-invalid=true]")];
  for (const field of wrong) {
    if (!says(field) && !says(field.closest("fieldset"))) fault("no text at the field says what is wrong", field);
    if (!led.some(target => target && (target === field || target.contains(field)))) fault("nothing leads to", field);
  }
  for (const field of doc.querySelectorAll("input[type=password]")) if (field.value) fault("it is kept", field);
  const kept = {};
  for (const field of doc.querySelectorAll("main form[method=post] :is(input, select, textarea)"))
    if (field.type === "radio" ? field.checked : !["password", "hidden"].includes(field.type)
      && field.autocomplete !== "one-time-code") kept[field.name] = field.value;
  const kinds = wrong.map(field => field.tagName + (["checkbox", "password"].includes(field.type) ? field.type : ""));
  const names = [...new Set(wrong.map(field => field.name))].sort();
  return { faults, kept, kinds: kinds.length ? kinds : ["form"], wrong: names };
}"""
# Parts that a page fetches by itself as soon as it is there, not to be taken for what it says.
_WAITING = "[hx-trigger='load']"
_LINKS = """Array.from(document.querySelectorAll("a[href^='/']"), link => link.getAttribute("href"))"""
MOST_TABS = 80
# Of one test that fails.
MOST_PICTURES = 5
# To hide the place of typing, each field is given a style while a picture is taken; what htmx puts in the place of the
# field at that moment takes it over, which the page's policy forbids. Pictures of the documentation are without.
CARET: Literal["hide", "initial"] = "hide" if "PICTURES" in os.environ else "initial"
# Far more than anything takes: other tests may run beside.
MOST_MS = 60_000


class Looker:
    """A page of a browser; everything that is wrong there is in `faults`, with the address."""

    def __init__(self, page: Page, *, shapes: set[str]) -> None:
        self.page = page
        self.faults: list[str] = []
        self.page_count = 0
        self.links: set[str] = set()
        # Set by a test that has its own requests refused on purpose.
        self.may_be_refused = False
        # `tests/ui/test_lists.py::test_x[super] (call)`, in signs that every file system takes.
        test = os.environ.get("PYTEST_CURRENT_TEST", "").partition(" ")[0].rpartition("::")[2]
        self._failed_as = "failed-" + re.sub(r"\W+", "-", test).strip("-")
        self._pictures = 0
        self._shapes = shapes
        self._kinds: set[str] = set()
        page.on("console", lambda message: self._note_console(message.type, message.text))
        page.on("response", self._note_response)
        page.on("pageerror", lambda error: self.fault(f"script: {error}"))
        page.set_default_timeout(MOST_MS)
        expect.set_options(timeout=MOST_MS)

    def fault(self, what: str) -> None:
        self.faults.append(f"{self.page.url}: {what}")

    def picture_of(self, what: object) -> Path:
        return OUTPUT / f"{self._failed_as}-{what}.png"

    def keep_picture(self, what: object) -> None:
        """Of the whole page as it is now; where there is none to be had, the test goes on to say what is wrong."""
        OUTPUT.mkdir(exist_ok=True)
        with suppress(PlaywrightError):
            self.page.screenshot(path=self.picture_of(what), full_page=True, caret=CARET)

    def visit(self, url: str) -> None:
        answer = self.page.goto(url)
        if answer is None or answer.status not in (200, 401):
            self.fault(f"status {answer and answer.status}")
        self.wait_for_parts()
        self.look()

    def wait_for_parts(self) -> None:
        """Until what the page fetches by itself is there. A part that does not come is a fault of its own."""
        with suppress(PlaywrightError):
            self.page.wait_for_function("parts => !document.querySelector(parts)", arg=_WAITING)
            return
        self.fault("a part of the page never comes")

    def look(self) -> None:
        """What holds for any page, of the page that is shown; axe and a phone only where its elements are new."""
        fault_count = len(self.faults)
        self._look()
        if len(self.faults) > fault_count and self._pictures < MOST_PICTURES:
            self._pictures += 1
            self.keep_picture(self._pictures)

    def _look(self) -> None:
        self.page_count += 1
        self.links |= set(self.page.evaluate(_LINKS))
        self._look_at_headings()
        if not self._is_new():
            return
        self.page.evaluate(_OPEN)
        self.page.evaluate(_AXE)
        self._run_axe("light")
        self._look_at_keyboard()
        self._choose("dark")
        self._run_axe("dark", "color-contrast", "link-in-text-block")
        self._choose("light")
        self._look_at_width("scrollable-region-focusable", "label", "button-name", "link-name", spaced=True)

    def look_at_errors(self, address: str, answer: Any, *, typed: dict[str, str], wrong: tuple[str, ...]) -> None:
        """The page that a refused form was answered with; shown as it was sent where the fields are of a new kind."""
        found = self.page.evaluate(_REFUSED, answer.content.decode())
        faults = list(found["faults"])
        if found["wrong"] != sorted(wrong):
            faults.append(f"{found['wrong']} are marked as wrong instead of {sorted(wrong)}")
        for name, value in typed.items():
            if name in found["kept"] and found["kept"][name].replace("\r", "") != value:
                faults.append(f"of {name} it keeps {found['kept'][name][:80]!r} instead of {value[:80]!r}")
        self.faults += [f"{address} refused: {fault}" for fault in faults]
        if not set(found["kinds"]) <= self._kinds:
            self._kinds |= set(found["kinds"])
            self._look_at_shown_errors(address, answer)

    def _look_at_shown_errors(self, address: str, answer: Any) -> None:
        self.page_count += 1
        sent = {name: answer[name] for name in ("Content-Type", "Content-Security-Policy")}
        self.page.route(address, lambda route: route.fulfill(status=400, headers=sent, body=answer.content))
        self.page.goto(address)
        self.page.unroute(address)
        for fault in self.page.evaluate(_REFUSED, None)["faults"]:
            self.fault(fault)
        self.page.evaluate(_AXE)
        self._run_axe("errors")
        self._choose("dark")
        self._run_axe("errors, dark", "color-contrast", "link-in-text-block")
        self._choose("light")
        self._look_at_width()

    def look_at_menus(self) -> None:
        """Each menu opens by the keyboard, is read by axe in both colours, fits a phone, and closes by Escape."""
        self.page.evaluate(_AXE)
        for menu in self.page.locator("header details").all():
            menu.locator("summary").press("Enter")
            for scheme in ("dark", "light"):
                self._choose(scheme)
                self._run_axe(f"menu, {scheme}")
            self._look_at_width()
            self.page.keyboard.press("Escape")
            if menu.get_attribute("open") is not None:
                self.fault("Escape does not close a menu")

    def _look_at_headings(self) -> None:
        if not self.page.title().split("·")[0].strip():
            self.fault("it has no title")
        if (count := self.page.locator("h1").count()) != 1:
            self.fault(f"it has {count} h1")

    def _is_new(self) -> bool:
        shapes = {self.page.evaluate(_SHAPE, selector) for selector in ("main, main *", "body > :not(main) *")}
        known = shapes <= self._shapes
        self._shapes |= shapes
        return not known

    def _run_axe(self, how: str, *rules: str) -> None:
        for fault in self.page.evaluate(_RUN_AXE, list(rules)):
            self.fault(f"axe ({how}): {fault}")

    def _look_at_width(self, *rules: str, spaced: bool = False) -> None:
        """On a phone and on a narrower one; with `spaced`, what also holds where somebody spaces the text."""
        if spaced:
            self._look_at_spacing(WIDE)
        self.page.set_viewport_size(PHONE)
        self._look_whether_it_fits(PHONE)
        if rules:
            self._run_axe("phone", *rules)
        if spaced:
            self._look_at_spacing(PHONE)
        self.page.set_viewport_size(NARROW)
        self._look_whether_it_fits(NARROW)
        self.page.set_viewport_size(WIDE)

    def _look_whether_it_fits(self, size: ViewportSize) -> None:
        if (width := self.page.evaluate("document.documentElement.scrollWidth")) > size["width"]:
            self.fault(f"it is {width} wide, the window {size['width']}: {self.page.evaluate(_TOO_WIDE)}")

    def _look_at_spacing(self, size: ViewportSize) -> None:
        found = self.page.evaluate(_SPACED)
        if found["width"] > size["width"]:
            self.fault(f"spaced it is {found['width']} wide, the window {size['width']}")
        for cut in found["cut"]:
            self.fault(f"spaced, in a window of {size['width']}, this is cut off: {cut}")

    def _choose(self, scheme: str) -> None:
        """What the person's system says, and until the page follows it."""
        self.page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
        self.page.wait_for_function("scheme => document.documentElement.dataset.bsTheme === scheme", arg=scheme)

    def _look_at_keyboard(self) -> None:
        """Tab comes from the content's beginning to its first main button; wherever the focus is, it is seen."""
        if self.page.locator("main .btn-primary:visible").count() == 0:
            self.page.keyboard.press("Tab")
        elif not self.tab_to("main .btn-primary", start="main"):
            self.fault(f"{MOST_TABS} times Tab do not reach the main button")
        if unseen := self.page.evaluate(_UNSEEN_FOCUS):
            self.fault(f"nobody sees that this has the focus: {unseen}")

    def tab_to(self, selector: str, *, start: str = "") -> bool:
        """By Tab alone to the next element of the selector, from the beginning of `start` or where the focus is."""
        if start:
            self.page.locator(start).first.evaluate("place => { place.tabIndex = -1; place.focus(); }")
        for _ in range(MOST_TABS):
            self.page.keyboard.press("Tab")
            if self.page.evaluate("selector => document.activeElement.matches(selector)", selector):
                return True
        return False

    def look_at_whole_round(self) -> None:
        """Tab comes to all on the page that can have the focus, and out of the page again (WCAG 2.1.1, 2.1.2)."""
        count = self.page.evaluate(_TABBED)
        self.page.evaluate("document.activeElement.blur(); getSelection().setPosition(document.body, 0)")
        reached: list[int] = []
        # A field for a date or a time has places of its own. Who is held anywhere never comes out.
        for _ in range(4 * count + 4):
            self.page.keyboard.press("Tab")
            place = self.page.evaluate("window.tabbed.indexOf(document.activeElement)")
            if place == -1 or (reached[1:] and place == reached[0]):
                break
            reached.append(place)
        else:
            self.fault(f"after {4 * count + 4} times Tab the focus is still in the page")
        if left_out := self.page.evaluate(_LEFT_OUT, reached):
            self.fault(f"Tab does not come to {left_out}")

    def _note_response(self, response: Response) -> None:
        """A script, a style, a font, a picture or a part of the page that is not there."""
        kinds = _LOADED - (_FETCHED if self.may_be_refused else set())
        if response.status >= 400 and response.request.resource_type in kinds:
            self.fault(f"{response.url} answers {response.status}")

    def _note_console(self, kind: str, text: str) -> None:
        if kind == "error" and not text.startswith(_NOTE):
            self.fault(f"console: {text}")


@contextmanager
def looking(browser: Browser, *, shapes: set[str] | None = None, **options: Any) -> Iterator[Looker]:
    """A fresh profile; at the end every fault fails the test. `shapes` is what has been looked at before.

    Of a test that fails the page is kept as it was then, and the first ones on which something was found.
    """
    context = browser.new_context(viewport=WIDE, color_scheme="light", reduced_motion="reduce", **options)
    looker = Looker(context.new_page(), shapes=set() if shapes is None else shapes)
    for what in (*range(1, MOST_PICTURES + 1), "end"):
        looker.picture_of(what).unlink(missing_ok=True)
    try:
        yield looker
        assert not looker.faults, f"{len(looker.faults)} faults:\n" + "\n".join(looker.faults)
    except BaseException:
        looker.keep_picture("end")
        raise
    finally:
        context.close()


def shown_pictures() -> set[str]:
    """Their names, without the end of the file."""
    return {name for guide in GUIDES for name in re.findall(r"\(pictures/(.+?)\.png\)", guide.read_text())}


def picture(page: Page, name: str) -> None:
    """Kept as output of the tests, from the page's top; in the documentation, where it is shown, by `make pictures`."""
    page.evaluate("scrollTo(0, 0)")
    is_shown = name in shown_pictures()
    for folder in (OUTPUT, *([DOCS / "pictures"] if is_shown and "PICTURES" in os.environ else [])):
        folder.mkdir(exist_ok=True)
        page.screenshot(path=folder / f"{name}.png", caret=CARET)


# The browser's driver runs an event loop in this thread, where Django refuses the database otherwise.
os.environ.setdefault("DJANGO_ALLOW_ASYNC_UNSAFE", "true")
