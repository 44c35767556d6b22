"""Headings of lists that sort."""

from __future__ import annotations

from django import template
from django.utils.html import format_html
from django.utils.safestring import SafeString

from tenants.listing import Listed

register = template.Library()

# A link within the list renews the list alone; without scripts it is a link.
BOOSTED = SafeString(
    'hx-boost="true" hx-target="#list" hx-select="#list" hx-select-oob="#list-said:innerHTML" hx-swap="outerHTML"'
    ' hx-push-url="true"'
)


@register.simple_tag
def boosted() -> SafeString:
    return BOOSTED


@register.simple_tag
def heading(listed: Listed, key: str, *, numbers: bool = False) -> SafeString:
    """The heading of a column that is sorted by; a click turns it round. Plain where this order is not offered now."""
    sort = listed.sorts[key]
    if key not in listed.offered:
        return format_html('<th scope="col"{}>{}</th>', SafeString(' class="numbers"') if numbers else "", sort.title)
    is_chosen, falls = listed.sort.lstrip("-") == key, listed.sort.startswith("-")
    turned = not falls if is_chosen else sort.falls
    said = ("descending" if falls else "ascending") if is_chosen else "none"
    sign = ("▼" if falls else "▲") if is_chosen else "↕"
    return format_html(
        '<th scope="col"{} aria-sort="{}"><a id="sort-{}" class="list-sort" href="{}" {}>'
        '{} <span aria-hidden="true">{}</span></a></th>',
        SafeString(' class="numbers"') if numbers else "",
        said,
        key,
        listed.address(sort=("-" if turned else "") + key),
        BOOSTED,
        sort.title,
        sign,
    )
