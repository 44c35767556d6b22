"""Lists of the portal: filtered by a form, sorted by their headings, paged by cursor, remembered, and given as CSV.

Each list is one `Listing`. Only orders that an index walks, or that few rows allow, are offered. What the form does not
understand lists nothing: an error at its field is never beside rows that were not asked for.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from django import forms
from django.conf import settings
from django.contrib import messages
from django.db.models import Value
from django.db.models.functions import Coalesce
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect, QueryDict, StreamingHttpResponse
from django.http.response import HttpResponseBase
from django.shortcuts import redirect, render
from rest_framework.exceptions import ValidationError

from common.forms import PlainForm
from tenants.api.export import csv_response
from tenants.api.paging import KeysetPage, field_at, read_page
from tenants.api.throttling import EXPORT, count_request, principal_of
from tenants.models import Person
from tenants.querysets import MOST_SOUGHT, sought_first, values_of
from tenants.renewing import part_of
from tenants.views import ROWS_PER_PAGE

ROW_CHOICES = (25, 50, 100, 200)
# For `Sort.empty`: what has not happened comes before, or after, all that has.
NEVER, NOT_YET = datetime(1990, 1, 1, tzinfo=UTC), datetime(2999, 12, 31, tzinfo=UTC)
# More are not counted, and not put in an order without an index: that would cost more than the page.
MOST_COUNTED = 1_000
# What a person chose last, by list, in the session; longer ones are not worth keeping.
REMEMBERED = "lists"
LONGEST_REMEMBERED = 600
# Put by the list's own form and links: what another page links to is not remembered.
_KEEP = "keep"


class ListForm(PlainForm):
    """The filters of one list. Subclasses have fields, none required, and say in `narrow` what they mean.

    Fields of `more` are behind a summary; those of `of_administrators` are for who administers tenants. One of `of_one`
    narrows the list to what belongs to one thing, which an index gives at once.
    """

    more: tuple[str, ...] = ()
    of_administrators: tuple[str, ...] = ()
    of_one: tuple[str, ...] = ()
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

    @property
    def most_counted(self) -> int:
        """Up to how many rows are counted, and put in any order: MOST_SOUGHT where finding them was no work."""
        is_cheap = self.found_count is not None or any(name in self.wanted for name in self.of_one)
        return MOST_SOUGHT if is_cheap else MOST_COUNTED

    def shown_first(self) -> list[forms.BoundField]:
        return [field for field in self.visible_fields() if field.name not in self.more]

    def shown_on_demand(self) -> list[forms.BoundField]:
        return [field for field in self.visible_fields() if field.name in self.more]

    def more_is_open(self) -> bool:
        return any(field.data or field.errors for field in self.shown_on_demand())


@dataclass(frozen=True, slots=True)
class Sort:
    """An order that people may choose: what it is called, and its columns upwards; the key is added to them.

    `of_few` has no index and is only offered where few rows are found. `empty` says for columns that can be empty what
    counts instead: something that the column could hold.
    """

    title: str
    columns: tuple[str, ...]
    # The direction of the first click.
    falls: bool = False
    of_few: bool = False
    empty: Mapping[str, Any] = field(default_factory=dict)

    def order(self, rows: Any, *, falls: bool) -> Any:
        """The rows in this order; what stands for an empty column is an annotation of them."""
        sign, names = "-" if falls else "", []
        for column in self.columns:
            if column in self.empty:
                found = field_at(rows.model, column)
                filled = Coalesce(column, Value(self.empty[column], output_field=found), output_field=found)
                names.append(f"order_by_{column.replace('__', '_')}")
                rows = rows.annotate(**{names[-1]: filled})
            else:
                names.append(column)
        return rows.order_by(*[f"{sign}{name}" for name in (*names, "pk")])


@dataclass(frozen=True, slots=True)
class Listed:
    """One page of a list, as its template shows it."""

    form: ListForm
    rows: Sequence[Any]
    page: KeysetPage
    # All orders of the list, and which of them are offered for what was found.
    sorts: Mapping[str, Sort]
    offered: frozenset[str]
    sort: str
    row_count: int
    # The query of this list without cursor, always with `keep`.
    query: QueryDict
    # How many there are, up to `most_counted` of the form; None while the form has errors.
    count: int | None
    is_narrowed: bool
    # The list's own address, where the page answers another one; empty: that of the page.
    home: str = ""

    def address(self, **changes: str) -> str:
        """A link to the same list with other parameters; an empty one is left out."""
        query = self.query.copy()
        query.setlist(_KEEP, ["1"])
        for name, value in changes.items():
            query.setlist(name, [value] if value else [])
        return f"{self.home}?{query.urlencode()}"

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
        return f"{self.home}?{_KEEP}=1"

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
        if self.count > (most := self.form.most_counted):
            return f"More than {most:,} in all"
        return f"{self.count:,} in all"

    @property
    def withheld(self) -> list[str]:
        """The orders that are offered for fewer rows only, by their titles; none while nothing is counted."""
        titles = [sort.title.lower() for key, sort in self.sorts.items() if key not in self.offered]
        return titles if self.count is not None else []

    def sort_choices(self) -> list[tuple[str, str]]:
        return [
            (sign + key, f"{sort.title}, {word}")
            for key, sort in self.sorts.items()
            if key in self.offered
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
        if not form.is_valid():
            return self._page(request.GET, rows.none(), form, self.order)
        sort, found, count = self._sorted(request.GET, form.narrow(rows, form.wanted), form)
        if request.GET.get("format") == "csv":
            return self._exported(request, self._ordered(found, sort))
        return self._page(request.GET, found, form, sort, count)

    def read_again(self, request: HttpRequest, rows: Any, *, home: str) -> Listed:
        """The page as it was remembered, for the answer to a form in one of its rows that was refused.

        `home` is the list's own address, for the links of the page.
        """
        asked = QueryDict(request.session.get(REMEMBERED, {}).get(self.name, ""))
        form = self.form(asked, person=request.user)
        if not form.is_valid():
            return replace(self._page(asked, rows.none(), form, self.order), home=home)
        sort, found, count = self._sorted(asked, form.narrow(rows, form.wanted), form)
        return replace(self._page(asked, found, form, sort, count), home=home)

    def _sorted(self, asked: QueryDict, found: Any, form: ListForm) -> tuple[str, Any, int | None]:
        """The order that is asked for, where it is offered for what was found; the rows, and how many if that is known.

        Few rows go on by their keys: what they were found by may have no index, and is not looked for twice.
        """
        sort = asked.get("sort", "")
        if sort.lstrip("-") not in self.sorts or sort.startswith("--"):
            return self.order, found, form.found_count
        if not self.sorts[sort.lstrip("-")].of_few:
            return sort, found, form.found_count
        if form.most_counted > MOST_COUNTED:
            count = self._count(found, form, self.order) if form.found_count is None else form.found_count
            return (sort if count <= form.most_counted else self.order), found, count
        keys = list(self._ordered(found, self.order).values_list("pk", flat=True)[: MOST_COUNTED + 1])
        if len(keys) > MOST_COUNTED:
            return self.order, found, len(keys)
        return sort, found.filter(pk__in=keys), len(keys)

    def _ordered(self, found: Any, sort: str) -> Any:
        return self.sorts[sort.lstrip("-")].order(found, falls=sort.startswith("-"))

    def _count(self, found: Any, form: ListForm, sort: str) -> int:
        """In the list's order: the database walks the index that it walks for the page, and stops in time."""
        count: int = self._ordered(found, sort)[: form.most_counted + 1].count()
        return count

    def _page(self, asked: QueryDict, found: Any, form: ListForm, sort: str, count: int | None = None) -> Listed:
        wanted = asked.get("rows", "")
        row_count = int(wanted) if wanted in {str(number) for number in ROW_CHOICES} else ROWS_PER_PAGE
        is_valid, page = form.is_valid(), KeysetPage([], None, None)
        if is_valid:
            page = _page_of(asked, self._ordered(found, sort), row_count)
        if page.next is None and page.previous is None:
            count = len(page.rows)
        elif count is None:
            count = self._count(found, form, sort)
        few = is_valid and count <= form.most_counted
        return Listed(
            form=form,
            rows=page.rows,
            page=page,
            sorts=self.sorts,
            offered=frozenset(key for key, one in self.sorts.items() if few or not one.of_few),
            sort=sort,
            row_count=row_count,
            query=self._chosen(asked),
            count=count if is_valid else None,
            is_narrowed=not is_valid or bool(form.wanted),
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
        text = self._chosen(request.GET).urlencode()
        if text != kept.get(self.name, "") and len(text) <= LONGEST_REMEMBERED:
            request.session[REMEMBERED] = {**kept, self.name: text}
        return None

    def _chosen(self, asked: QueryDict) -> QueryDict:
        """What the address says of filters, order and page size; nothing that belongs to one page or is unknown."""
        query = QueryDict(mutable=True)
        for name in (*self.form.base_fields, "sort", "rows"):
            checked = name in asked and isinstance(self.form.base_fields.get(name), forms.BooleanField)
            if asked.get(name) or checked:
                query[name] = asked[name] or "on"
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


def _page_of(asked: QueryDict, ordered: Any, row_count: int) -> KeysetPage:
    """From the cursor on; one of another order, or one that was altered, begins at the beginning."""
    try:
        return read_page(ordered, cursor=asked.get("cursor") or None, limit=row_count)
    except ValidationError:
        return read_page(ordered, cursor=None, limit=row_count)
