"""Fixtures of the tests of lists."""

from __future__ import annotations

from typing import Any

import pytest
from django.template.base import Template
from django.test.signals import template_rendered
from django.utils.safestring import SafeString

from tests.portal.listed import fill
from tests.worlds import World


@pytest.fixture
def filled(world: World) -> World:
    return fill(world)


@pytest.fixture
def unrendered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages without their HTML: what they would show is in the context, and hundreds of them take seconds."""

    def tell(template: Template, context: Any) -> SafeString:
        template_rendered.send(sender=template, template=template, context=context)
        return SafeString("")

    monkeypatch.setattr(Template, "_render", tell)
    monkeypatch.setattr("tenants.listing.ROWS_PER_PAGE", 3)
