"""Signing in and out, the audit, approvals."""

from __future__ import annotations

from django.urls import include, path

from tenants import audit_views, tokens_views
from tenants.choosing import TENANTS, choices_page

urlpatterns = [
    path("", include("tenants.sign_in.urls")),
    path("choices/tenants/", choices_page(TENANTS), name=TENANTS.url_name),
    path("tokens/", tokens_views.token_list, name="token-list"),
    path("tokens/new/", tokens_views.token_new, name="token-new"),
    path("tokens/<uuid:pk>/rotate/", tokens_views.token_rotate, name="token-rotate"),
    path("tokens/<uuid:pk>/end/", tokens_views.token_end, name="token-end"),
    path("audit/", audit_views.audit_list, name="audit-list"),
    path("approvals/", audit_views.approval_list, name="approval-list"),
    path("approvals/rules/", audit_views.approval_rule, name="approval-rule"),
    path("approvals/<uuid:pk>/approve/", audit_views.approval_approve, name="approval-approve"),
    path("approvals/<uuid:pk>/decline/", audit_views.approval_decline, name="approval-decline"),
    path("approvals/<uuid:pk>/withdraw/", audit_views.approval_withdraw, name="approval-withdraw"),
]
