"""What all pages of the portal share, and signing in."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from django.contrib import messages
from django.contrib.auth.views import redirect_to_login
from django.core.exceptions import PermissionDenied
from django.core.paginator import Page, Paginator
from django.db.models import QuerySet
from django.forms import Form
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import redirect
from django.utils.http import url_has_allowed_host_and_scheme
from django_htmx.http import HttpResponseClientRefresh

from common.errors import BackupsiteError, NotAllowedError, NotFoundError
from tenants.renewing import answer_part, part_of

ROWS_PER_PAGE = 50
MOST_COUNTED = 10_000
# What was typed is wrong: the page comes again with what was typed.
STATUS_WRONG_INPUT = 400

View = Callable[..., HttpResponse]


def portal_page(view: View) -> View:
    """A page for somebody who signed in. Invisible is the page 404, visible but not allowed the page 403."""

    @functools.wraps(view)
    def page(request: HttpRequest, *args: Any, **options: Any) -> HttpResponse:
        if not request.user.is_authenticated:
            # A fragment that polls must not get the sign-in page into its place.
            return HttpResponseClientRefresh() if request.htmx else redirect_to_login(request.get_full_path())
        try:
            return answer_part(request, view(request, *args, **options))
        except (NotFoundError, NotAllowedError) as error:
            if part_of(request):
                # It is gone, or was taken from him, while the page was open: the page itself says so.
                return HttpResponseClientRefresh()
            kind = Http404 if isinstance(error, NotFoundError) else PermissionDenied
            raise kind(error.message) from error

    return page


class BoundedPaginator(Paginator):  # type: ignore[type-arg]  # no generic while the program runs
    """Counts up to MOST_COUNTED and pages no further: counting a million rows would cost more than the page."""

    @functools.cached_property
    def count(self) -> int:
        return min(self._found, MOST_COUNTED)

    @property
    def is_cut(self) -> bool:
        return self._found > MOST_COUNTED

    @functools.cached_property
    def _found(self) -> int:
        rows: Any = self.object_list
        if not isinstance(rows, QuerySet):
            return len(rows)
        # Which rows are counted does not matter, as long as they are so many.
        return (rows if rows.query.is_sliced else rows.order_by())[: MOST_COUNTED + 1].count()


def paginate(request: HttpRequest, rows: Any, *, parameter: str = "page") -> Page[Any]:
    """The page that the address asks for, by this parameter of it; the last one when there are not so many."""
    return BoundedPaginator(rows, ROWS_PER_PAGE).get_page(request.GET.get(parameter))


def show_error(form: Form, error: BackupsiteError) -> None:
    """Put what a service refused where the person typed it. Rights are no matter of typing: those go on."""
    if isinstance(error, (NotFoundError, NotAllowedError)):
        raise error
    form.add_error(error.field if error.field in form.fields else None, error.message)


def back_with_error(request: HttpRequest, error: BackupsiteError, *, otherwise: str) -> HttpResponseRedirect:
    """To the page where the button was, with what the service said. Rights go on, as above."""
    if isinstance(error, (NotFoundError, NotAllowedError)):
        raise error
    messages.error(request, error.message)
    target = request.POST.get("next", "")
    safe = url_has_allowed_host_and_scheme(
        target, allowed_hosts={request.get_host()}, require_https=request.is_secure()
    )
    return redirect(target if safe and target.startswith("/") else otherwise)
