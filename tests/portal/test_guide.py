"""The guide to the portal knows its pages, is found, and is short enough to be read."""

from __future__ import annotations

import re
from pathlib import Path

from backups.server_states import ServerState
from backupsite.templatetags.menu import Who, every_page

ROOT = Path(__file__).resolve().parents[2]
GUIDE = ROOT / "docs" / "portal.md"


def test_it_names_every_page_that_an_administrator_or_owner_has() -> None:
    text = " ".join(GUIDE.read_text().split())
    titles = {page.title for page in every_page() if page.who < Who.SUPER_ADMIN}

    assert {title for title in titles if title not in text} == set()
    assert {str(state) for state in ServerState if str(state) not in text} == set()


def test_it_can_be_found_and_what_it_leads_to_is_there() -> None:
    assert "(docs/portal.md)" in (ROOT / "README.md").read_text()
    assert "(portal.md)" in (ROOT / "docs" / "first-steps.md").read_text()
    links = re.findall(r"\]\(([^)#]+)\)", GUIDE.read_text())
    assert len(links) >= 8
    assert [link for link in links if not (GUIDE.parent / link).exists()] == []


def test_it_is_short() -> None:
    assert len(GUIDE.read_text().splitlines()) <= 150
