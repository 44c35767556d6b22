"""Parts of pages that ask for themselves again while the page is left open: see the template tag `renewed`.

A part asks for the address that it came from, and names itself (HX-Target) and the digest of what it shows (X-Seen).
The answer is the part alone, or 204 where it would be the same. Nothing of that is in the address: links within the
part are those of the page, and what a list remembers is left alone.
"""

from __future__ import annotations

import hashlib
import re

from django.http import HttpRequest, HttpResponse

SEEN_HEADER = "X-Seen"
RENEW_SECONDS = 45
# Of what gets on while somebody waits for it.
RENEW_OFTEN_SECONDS = 5
_PARTS = "renewed_parts"
# A token of a form is another one each time, and means the same.
_FORM_TOKEN = re.compile(r'name="csrfmiddlewaretoken" value="[^"]*"')


def part_of(request: HttpRequest) -> str:
    """The id of the part that is asked for; empty when it is a page, or another fragment."""
    if SEEN_HEADER not in request.headers:
        return ""
    htmx = request.htmx
    return (htmx.target or "") if htmx and not htmx.boosted else ""


def digest_of(text: str) -> str:
    return hashlib.sha256(_FORM_TOKEN.sub("", text).encode()).hexdigest()[:16]


def note_part(request: HttpRequest, name: str, text: str, *, seen: str) -> None:
    """What the page that is being made has for this part, and the digest of it."""
    vars(request).setdefault(_PARTS, {})[name] = (text, seen)


def answer_part(request: HttpRequest, page: HttpResponse) -> HttpResponse:
    """The part of this page that is asked for; the page itself where none is, or where it is no success."""
    parts = vars(request).get(_PARTS, {})
    name = part_of(request)
    if page.status_code != 200 or name not in parts:
        return page
    text, seen = parts[name]
    if request.headers[SEEN_HEADER] == seen:
        return HttpResponse(status=204)
    page.content = text.encode()
    return page
