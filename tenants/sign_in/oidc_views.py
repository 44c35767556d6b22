"""To the provider and back. One that is away, or answers nonsense, is said on the page of sign-in."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable

import requests
from allauth.socialaccount.providers.oauth2.client import OAuth2Error
from allauth.socialaccount.providers.openid_connect import views
from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.views.decorators.http import require_GET

logger = logging.getLogger(__name__)

# What allauth lets through when an answer is not as it should be.
_TROUBLE = (requests.RequestException, OAuth2Error, KeyError, TypeError, ValueError)
_AWAY = "The provider of your sign-in does not answer as it should. Try again later, or sign in with your password."

View = Callable[..., HttpResponse]


def _guarded(view: View) -> View:
    @require_GET
    @functools.wraps(view)
    def guarded(request: HttpRequest, provider_id: str) -> HttpResponse:
        try:
            return view(request, provider_id)
        except _TROUBLE as error:
            # Without the text: it may hold the code of this sign-in.
            logger.warning("The provider %s cannot be used: %s", provider_id, type(error).__name__)
            messages.error(request, _AWAY)
            return redirect("login")

    return guarded


login = _guarded(views.login)
callback = _guarded(views.callback)
