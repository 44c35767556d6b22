"""Hours of a node as cells of the heat map: thousands on a page, so they are joined here and not by a template."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from django import template
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from backupsite.templatetags.portal import size_text

register = template.Library()


@register.simple_tag
def heat_cells(cells: Iterable[Mapping[str, int]], address: str = "") -> SafeString:
    """A cell for each hour in their order, with its `load` in bytes per second and its `shade`; linked to `address`
    with its `hour` of the UTC day.
    """
    rows = ((cell["shade"], _shown(cell["load"], f"{address}&hour={cell['hour']}")) for cell in cells)
    if not address:
        rows = ((cell["shade"], _text(cell["load"])) for cell in cells)
    return format_html_join("", '<td class="numbers heat-{}">{}</td>', rows)


def _shown(load: int, address: str) -> str:
    """An hour without anything leads nowhere."""
    return format_html('<a class="text-reset" href="{}">{}</a>', address, _text(load)) if load else ""


def _text(load: int) -> str:
    return size_text(load) if load else ""
