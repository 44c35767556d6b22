"""Lists of the portal: filtered by a form, sorted by their headings, paged by cursor, remembered, and given as CSV.

Each list is one `Listing`. Only orders that an index walks, or that a small set allows, are offered. What the form does
not understand lists nothing: an error at its field is never beside rows that were not asked for.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from django import forms
from django.conf import settings
from django.contrib import messages
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect, QueryDict, StreamingHttpResponse
from django.http.response import HttpResponseBase
from django.shortcuts import redirect, render
from rest_framework.exceptions import ValidationError

from common.forms import PlainForm
from tenants.api.export import csv_response
from tenants.api.paging import KeysetPage, read_page
from tenants.api.throttling import EXPORT, count_request, principal_of
from tenants.models import Person
from tenants.querysets import sought_first, values_of
from tenants.renewing import part_of
from tenants.views import ROWS_PER_PAGE

ROW_CHOICES = (25, 50, 100, 200)
# More are not counted: that would cost more than the page.
MOST_COUNTED = 1_000
# What a person chose last, by list, in the session; longer ones are not worth keeping.
REMEMBERED = "lists"
LONGEST_REMEMBERED = 600
# Put by the list's own form and links: what another page links to is not remembered.
_KEEP = "keep"


class ListForm(PlainForm):
    """The filters of one list. Subclasses have fields, none required, and say in `narrow` what they mean.

    Fields of `more` are behind a summary; those of `of_administrators` are for who administers tenants.
    """

    more: tuple[str, ...] = ()
    of_administrators: tuple[str, ...] = ()
    # How many rows there are, where `narrow` had to count them: nobody counts them once more.
    found_count: int | None = None

    def __init__(self, data: Any, *, person: Person) -> None:
        super().__init__(data)
        self.person = person
        if not administers(person):
            for name in self.of_administrators:
                del self.fields[name]
        self.offer()

    def offer(self) -> None:
        """Say among which rows the choices are made."""

    def narrow(self, rows: Any, wanted: Mapping[str, Any]) -> Any:
        """The rows that are wanted; `wanted` holds the fields that were filled in."""
        return rows

    def sought(self, rows: Any) -> Any:
        """For the end of `narrow`, where a part of a name is looked for: see `sought_first`."""
        found, self.found_count = sought_first(rows)
        return found

    @property
    def wanted(self) -> dict[str, Any]:
        return {
            name: value for name, value in self.cleaned_data.items() if value or (value == 0 and value is not False)
        }

    def shown_first(self) -> list[forms.BoundField]:
        return [field for field in self.visible_fields() if field.name not in self.more]

    def shown_on_demand(self) -> list[forms.BoundField]:
        return [field for field in self.visible_fields() if field.name in self.more]

    def more_is_open(self) -> bool:
        return any(field.data or field.errors for field in self.shown_on_demand())


@dataclass(frozen=True, slots=True)
class Sort:
    """An order that people may choose: what it is called, and its columns upwards; the key is added to them."""

    title: str
    columns: tuple[str, ...]
    # The direction of the first click.
    falls: bool = False


@dataclass(frozen=True, slots=True)
class Listed:
    """One page of a list, as its template shows it."""

    form: ListForm
    rows: Sequence[Any]
    page: KeysetPage
    sorts: Mapping[str, Sort]
    sort: str
    row_count: int
    # The query of this list without cursor, always with `keep`.
    query: QueryDict
    # How many there are, up to MOST_COUNTED; None while the form has errors.
    count: int | None
    is_narrowed: bool

    def address(self, **changes: str) -> str:
        """A link to the same list with other parameters; an empty one is left out."""
        query = self.query.copy()
        query.setlist(_KEEP, ["1"])
        for name, value in changes.items():
            query.setlist(name, [value] if value else [])
        return f"?{query.urlencode()}"

    @property
    def previous_address(self) -> str:
        return self.address(cursor=self.page.previous) if self.page.previous else ""

    @property
    def next_address(self) -> str:
        return self.address(cursor=self.page.next) if self.page.next else ""

    @property
    def csv_address(self) -> str:
        return self.address(format="csv")

    @property
    def reset_address(self) -> str:
        return f"?{_KEEP}=1"

    @property
    def row_choices(self) -> tuple[int, ...]:
        return ROW_CHOICES

    @property
    def export_limit(self) -> int:
        limit: int = settings.API_EXPORT_ROWS
        return limit

    @property
    def count_text(self) -> str:
        """What a screen reader is told after each change."""
        if self.count is None:
            return "Nothing is listed: the filter is not right."
        if self.count > MOST_COUNTED:
            return f"More than {MOST_COUNTED:,} in all"
        return f"{self.count:,} in all"

    def sort_choices(self) -> list[tuple[str, str]]:
        return [
            (sign + key, f"{sort.title}, {word}")
            for key, sort in self.sorts.items()
            for sign, word in (("", "upwards"), ("-", "downwards"))
        ]


@dataclass(frozen=True, slots=True)
class Listing:
    """`name` is of the file and of what is remembered; `order` the sort without a choice.

    `serializer` makes the columns of the CSV, which are those of the API, and `related` is what it reads besides.
    """

    name: str
    form: type[ListForm]
    sorts: Mapping[str, Sort]
    order: str
    serializer: type[Any]
    related: tuple[str, ...] = ()

    def answer(
        self, request: HttpRequest, rows: Any, template: str, context: Mapping[str, Any] | None = None
    ) -> HttpResponseBase:
        """The page of these rows, for a list that needs nothing else of them. See `read`."""
        listed = self.read(request, rows)
        if not isinstance(listed, Listed):
            return listed
        return render(request, template, {**(context or {}), "listed": listed})

    def read(self, request: HttpRequest, rows: Any) -> Listed | HttpResponseBase:
        """The page that is asked for; or an answer, where the list is remembered or wanted as CSV.

        `rows` are those that the person may see, with what the page needs of them.
        """
        remembered = self._remembered(request)
        if remembered:
            return remembered
        form = self.form(request.GET, person=request.user)
        chosen = request.GET.get("sort", "")
        sort = chosen if chosen.lstrip("-") in self.sorts and not chosen.startswith("--") else self.order
        found = form.narrow(rows, form.wanted) if form.is_valid() else rows.none()
        ordered = found.order_by(*_columns(self.sorts[sort.lstrip("-")], falls=sort.startswith("-")))
        if request.GET.get("format") == "csv" and form.is_valid():
            return self._exported(request, ordered)
        return self._page(request, ordered, form, sort)

    def _page(self, request: HttpRequest, ordered: Any, form: ListForm, sort: str) -> Listed:
        asked = request.GET.get("rows", "")
        row_count = int(asked) if asked in {str(number) for number in ROW_CHOICES} else ROWS_PER_PAGE
        page = _page_of(request, ordered, row_count) if form.is_valid() else KeysetPage([], None, None)
        is_all = page.next is None and page.previous is None
        count = form.found_count
        if is_all:
            count = len(page.rows)
        elif count is None:
            # In the list's order: the database walks the index that it has just walked, and stops in time.
            count = ordered[: MOST_COUNTED + 1].count()
        return Listed(
            form=form,
            rows=page.rows,
            page=page,
            sorts=self.sorts,
            sort=sort,
            row_count=row_count,
            query=self._chosen(request),
            count=count if form.is_valid() else None,
            is_narrowed=not form.is_valid() or bool(form.wanted),
        )

    def _remembered(self, request: HttpRequest) -> HttpResponseRedirect | None:
        """Keep what the list's own form chose; without any parameter go to what was chosen last."""
        if part_of(request):
            # A page that is open goes on with what it shows, whatever was chosen in another one.
            return None
        kept: dict[str, str] = request.session.get(REMEMBERED, {})
        if not request.GET:
            return redirect(f"{request.path}?{kept[self.name]}&{_KEEP}=1") if kept.get(self.name) else None
        if _KEEP not in request.GET or request.GET.get("format") == "csv":
            return None
        text = self._chosen(request).urlencode()
        if text != kept.get(self.name, "") and len(text) <= LONGEST_REMEMBERED:
            request.session[REMEMBERED] = {**kept, self.name: text}
        return None

    def _chosen(self, request: HttpRequest) -> QueryDict:
        """What the address says of filters, order and page size; nothing that belongs to one page or is unknown."""
        query = QueryDict(mutable=True)
        for name in (*self.form.base_fields, "sort", "rows"):
            checked = name in request.GET and isinstance(self.form.base_fields.get(name), forms.BooleanField)
            if request.GET.get(name) or checked:
                query[name] = request.GET[name] or "on"
        return query

    def _exported(self, request: HttpRequest, ordered: Any) -> StreamingHttpResponse | HttpResponse:
        standing = count_request(EXPORT, principal_of(request), now=time.time())
        if standing is not None and not standing.allowed:
            messages.error(request, f"Too many lists were exported. Try again in {standing.reset_seconds} seconds.")
            return redirect(request.path)
        rows = ordered.select_related(*self.related) if self.related else ordered
        return csv_response(rows, self.serializer(context={"request": request}), name=self.name)


def administers(person: Person) -> bool:
    """Whether the person is a SuperAdmin or administers a tenant; asked once in a request."""
    if person.is_superuser:
        return True
    tenants = values_of(person.administered_tenants(), whose=person)
    return bool(tenants) if isinstance(tenants, list) else True


def _page_of(request: HttpRequest, ordered: Any, row_count: int) -> KeysetPage:
    """From the cursor on; one of another order, or one that was altered, begins at the beginning."""
    try:
        return read_page(ordered, cursor=request.GET.get("cursor") or None, limit=row_count)
    except ValidationError:
        return read_page(ordered, cursor=None, limit=row_count)


def _columns(sort: Sort, *, falls: bool) -> list[str]:
    sign = "-" if falls else ""
    return [f"{sign}{column}" for column in (*sort.columns, "pk")]
