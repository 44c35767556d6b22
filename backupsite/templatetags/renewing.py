"""A part of a page that renews itself while the page is left open.

    {% renewed %} … {% endrenewed %}                            every RENEW_SECONDS
    {% renewed id="overview-days" every=300 %} … {% endrenewed %}

renew.js lets it rest while somebody is at work in it, and keeps what was ticked, opened and scrolled. Only what a GET
shows is asked for again: a form that was refused stays. `tenants.renewing` answers.
"""

from __future__ import annotations

from typing import Any

from django import template
from django.utils.html import format_html
from django.utils.safestring import SafeString

from tenants.renewing import RENEW_SECONDS, digest_of, note_part

register = template.Library()


class RenewedNode(template.Node):
    """`nodelist` is where Django looks for blocks: those of a list's base are within a part."""

    def __init__(self, nodelist: template.NodeList, options: dict[str, Any]) -> None:
        self.nodelist, self._options = nodelist, options

    def render(self, context: Any) -> SafeString:
        options = {name: value.resolve(context) for name, value in self._options.items()}
        name, every = options.get("id", "renewed"), options.get("every", RENEW_SECONDS)
        request, inner = context["request"], self.nodelist.render(context)
        if request.method != "GET":
            return format_html('<div id="{}">{}</div>', name, inner)
        seen = digest_of(inner)
        found = format_html(
            '<div id="{}" data-seen="{}" hx-get="{}" hx-trigger="every {}s, renew" hx-swap="outerHTML"'
            ' hx-disinherit="*">{}</div>',
            name, seen, request.get_full_path(), every, inner,
        )  # fmt: skip
        note_part(request, name, found, seen=seen)
        return found


@register.tag
def renewed(parser: Any, token: Any) -> RenewedNode:
    bits = token.split_contents()[1:]
    options = template.base.token_kwargs(bits, parser)
    if bits or set(options) - {"id", "every"}:
        raise template.TemplateSyntaxError("renewed takes id= and every= alone.")
    nodelist = parser.parse(("endrenewed",))
    parser.delete_first_token()
    return RenewedNode(nodelist, options)
