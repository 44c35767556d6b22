"""Pages of budgets: what an operator allows at once. Nobody else sees any."""

from __future__ import annotations

import zoneinfo
from typing import Any
from uuid import UUID

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from backups.budget_forms import BudgetForm, NewBudgetForm, initial_of
from backups.budgeting import change_budget, create_budget, delete_budget
from backups.models import Budget
from common.errors import BackupsiteError, NotAllowedError
from tenants.access import get_for_user, may_create
from tenants.roles import Action
from tenants.views import STATUS_WRONG_INPUT, paginate, portal_page, show_error


@require_GET
@portal_page
def budget_list(request: HttpRequest) -> HttpResponse:
    found = Budget.objects.for_user(request.user).select_related("node", "vault", "tenant").order_by("created_at", "pk")
    context = {"page": paginate(request, found), "may_create": may_create(request.user, Budget)}
    return render(request, "backups/budgets.html", context)


@require_http_methods(["GET", "POST"])
@portal_page
def budget_create(request: HttpRequest) -> HttpResponse:
    if not may_create(request.user, Budget):
        raise NotAllowedError("Only a SuperAdmin sets budgets.")
    form = NewBudgetForm(request.POST or None, person=request.user, initial={"time_zone": request.user.time_zone})
    if request.method == "POST" and form.is_valid():
        try:
            create_budget(kind=form.cleaned_data["kind"], values=form.values(), actor=request.user)
        except BackupsiteError as error:
            show_error(form, error)
        else:
            messages.success(request, "The budget holds for every job that begins from now on.")
            return redirect("budget-list")
    return _page(request, form)


@require_http_methods(["GET", "POST"])
@portal_page
def budget_edit(request: HttpRequest, pk: UUID) -> HttpResponse:
    budget = get_for_user(Budget.objects.all(), person=request.user, action=Action.EDIT, pk=pk)
    form = BudgetForm(request.POST or None, initial=initial_of(budget))
    target = budget.target
    if request.method == "POST" and form.is_valid():
        try:
            change_budget(budget=budget, changes=form.changes(), actor=request.user)
        except BackupsiteError as error:
            show_error(form, error)
        else:
            messages.success(request, "The budget is changed. Jobs that run go on as they began.")
            return redirect("budget-list")
    return _page(request, form, target=target)


@require_POST
@portal_page
def budget_remove(request: HttpRequest, pk: UUID) -> HttpResponse:
    budget = get_for_user(Budget.objects.all(), person=request.user, action=Action.DELETE, pk=pk)
    target = budget.target
    delete_budget(budget=budget, actor=request.user)
    messages.success(request, f"The budget for {target} is removed.")
    return redirect("budget-list")


def _page(request: HttpRequest, form: BudgetForm, **context: Any) -> HttpResponse:
    context |= {"form": form, "time_zones": sorted(zoneinfo.available_timezones())}
    status = STATUS_WRONG_INPUT if form.is_bound and form.errors else 200
    return render(request, "backups/budget_form.html", context, status=status)
