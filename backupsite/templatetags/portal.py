"""How the portal writes times, sizes and states: for people, with the exact value in the title."""

from __future__ import annotations

import zoneinfo
from datetime import UTC, datetime, timedelta
from itertools import pairwise

from django import template
from django.conf import settings
from django.core.exceptions import ValidationError
from django.core.validators import validate_email
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString

register = template.Library()

_NOTHING = SafeString('<span class="text-secondary">–</span>')
_UNITS = ("bytes", "KiB", "MiB", "GiB", "TiB", "PiB")
_COLOURS = {
    "ok": "green",
    "ready": "green",
    "online": "green",
    "enrolled": "green",
    "protected": "green",
    "active": "green",
    "running": "blue",
    "restore": "blue",
    "pending": "yellow",
    "maintenance": "yellow",
    "failed": "red",
    "lost": "red",
    "verified": "green",
    "as promised": "green",
    "damaged": "red",
    "missing": "red",
    "refused": "red",
    "offline": "red",
    "silent": "red",
    "revoked": "secondary",
    "unprotected": "orange",
    "late": "orange",
    "unverified": "yellow",
    "unlocked": "orange",
    "waiting": "blue",
    "critical": "red",
    "warning": "orange",
    "info": "blue",
}


@register.filter
def moment(value: datetime | None) -> SafeString:
    """The time in the zone of the person who looks; UTC in the title."""
    if value is None:
        return _NOTHING
    utc = value.astimezone(UTC)
    local = timezone.localtime(value)
    return format_html(
        '<time datetime="{}" title="{}">{}</time>',
        f"{utc:%Y-%m-%dT%H:%M:%SZ}",
        f"{utc:%Y-%m-%d %H:%M:%S} UTC",
        f"{local:%-d %b %Y, %H:%M}",
    )


@register.filter
def run_time(value: datetime) -> SafeString:
    """A planned run: weekday and offset too, because offsets change."""
    local = timezone.localtime(value)
    return format_html(
        '<time datetime="{}" title="{}">{} <span class="text-secondary">{}</span></time>',
        f"{value.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}",
        f"{value.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC",
        f"{local:%a %-d %b %Y, %H:%M}",
        local.isoformat()[-6:],
    )


@register.filter
def size(value: int | None) -> SafeString:
    """1.5 GiB, with the exact number in the title."""
    if value is None:
        return _NOTHING
    return format_html('<span title="{} bytes">{}</span>', f"{value:,}", size_text(value))


@register.filter
def size_text(value: int) -> str:
    """The same as plain text, for an <option>."""
    for power, (unit, larger) in enumerate(pairwise((*_UNITS, ""))):
        if value < 1024 ** (power + 1) or not larger:
            amount = value / 1024**power
            return f"{amount:.0f} {unit}" if power == 0 or amount >= 100 else f"{amount:.1f} {unit}"
    return ""


@register.filter
def duration(seconds: float | None) -> str:
    """2 h 5 min, 3 min 20 s, 4 s."""
    if seconds is None:
        return "–"
    whole = timedelta(seconds=int(seconds))
    hours, rest = divmod(int(whole.total_seconds()), 3600)
    minutes, left = divmod(rest, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {left} s" if minutes else f"{left} s"


@register.filter
def chip(state: str) -> SafeString:
    """A state as a coloured word; the word alone says it, too."""
    colour = _COLOURS.get(str(state), "secondary")
    return format_html(
        '<span class="status status-{}"><span class="status-dot" aria-hidden="true"></span>{}</span>', colour, state
    )


@register.simple_tag
def whom_to_ask() -> SafeString:
    """A sentence with the contact that the operator set, after one that says that somebody else has to do it.

    Nobody by name: who owns a server does not see the people of its tenant.
    """
    contact = settings.CONFIG.contact
    if not contact:
        return SafeString("")
    target = contact if contact.startswith("https://") else f"mailto:{contact}" if _is_mail(contact) else ""
    shown = format_html('<a href="{}">{}</a>', target, contact) if target else contact
    return format_html(' <span class="whom-to-ask">Whom to ask: {}.</span>', shown)


def _is_mail(contact: str) -> bool:
    try:
        validate_email(contact)
    except ValidationError:
        return False
    return True


@register.simple_tag
def zone_name() -> str:
    zone = timezone.get_current_timezone()
    return zone.key if isinstance(zone, zoneinfo.ZoneInfo) else "UTC"
