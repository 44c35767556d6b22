"""Addresses of sign-in. Only those of allauth that are wanted are here: nothing to sign up, nothing to link by hand.

Names beginning with `account_` and `mfa_` are those by which allauth finds its pages.
"""

from __future__ import annotations

from allauth.account.views import reauthenticate
from allauth.mfa.base import views as factor_views
from allauth.mfa.recovery_codes import views as codes_views
from allauth.mfa.totp import views as totp_views
from allauth.mfa.webauthn import views as passkey_views
from allauth.socialaccount.views import login_cancelled, login_error
from django.contrib.auth.views import LogoutView
from django.urls import path

from tenants.sign_in import enrolling, oidc_views, views
from tenants.sign_in.passwords import ChangeView, ConfirmView, ResetView

_sign_in = views.SignInView.as_view()
_overview = views.OverviewView.as_view()

urlpatterns = [
    path("login/", _sign_in, name="login"),
    path("login/", _sign_in, name="account_login"),
    path("login/code/", factor_views.authenticate, name="mfa_authenticate"),
    path("login/passkey/", passkey_views.login_webauthn, name="mfa_login_webauthn"),
    path("login/oidc/<slug:provider_id>/", oidc_views.login, name="openid_connect_login"),
    path("login/oidc/<slug:provider_id>/callback/", oidc_views.callback, name="openid_connect_callback"),
    path("login/cancelled/", login_cancelled, name="socialaccount_login_cancelled"),
    path("login/error/", login_error, name="socialaccount_login_error"),
    path("logout/", LogoutView.as_view(), name="logout"),
    path("confirm/", reauthenticate, name="account_reauthenticate"),
    path("confirm/code/", factor_views.reauthenticate, name="mfa_reauthenticate"),
    path("confirm/passkey/", passkey_views.reauthenticate_webauthn, name="mfa_reauthenticate_webauthn"),
    path("password/reset/", ResetView.as_view(), name="account_reset_password"),
    path("password/reset/<uidb64>/<token>/", ConfirmView.as_view(), name="password-reset-confirm"),
    path("sign-in/", _overview, name="mfa_index"),
    path("sign-in/", _overview, name="mfa_list_webauthn"),
    path("sign-in/password/", ChangeView.as_view(), name="account_change_password"),
    path("sign-in/app/", enrolling.with_code(totp_views.activate_totp), name="mfa_activate_totp"),
    path("sign-in/code/", enrolling.enrol_code, name="mfa_enrol_code"),
    path("sign-in/app/remove/", totp_views.deactivate_totp, name="mfa_deactivate_totp"),
    path("sign-in/passkeys/add/", enrolling.with_code(passkey_views.add_webauthn), name="mfa_add_webauthn"),
    path("sign-in/passkeys/<int:pk>/remove/", passkey_views.remove_webauthn, name="mfa_remove_webauthn"),
    path("sign-in/recovery-codes/", codes_views.view_recovery_codes, name="mfa_view_recovery_codes"),
    path("sign-in/recovery-codes/new/", codes_views.generate_recovery_codes, name="mfa_generate_recovery_codes"),
    path("sign-in/sessions/<slug:key>/end/", views.end_session, name="account_end_session"),
    path("sign-in/sessions/end/", views.sign_out_everywhere, name="sign-out-everywhere"),
    path("people/<uuid:pk>/sign-in/", views.person_sign_in, name="person-sign-in"),
    path("people/<uuid:pk>/sign-in/reset-mfa/", views.reset_factors, name="person-reset-mfa"),
    path("people/<uuid:pk>/sign-in/end-sessions/", views.end_sessions_of, name="person-end-sessions"),
]
