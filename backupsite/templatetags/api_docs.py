"""Words of the OpenAPI document in the page that shows it."""

from __future__ import annotations

from django import template
from django.utils.html import escape, format_html_join
from django.utils.safestring import SafeString

register = template.Library()


@register.filter
def coded(text: str) -> SafeString:
    """What stands between backticks as code; everything else as it is."""
    plain, *rest = text.split("`")
    if len(rest) % 2:
        return escape(text)
    pairs = zip(rest[::2], rest[1::2], strict=True)
    return escape(plain) + format_html_join("", "<code>{}</code>{}", pairs)
