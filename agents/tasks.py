"""Tasks over agents: load, call, return."""

from __future__ import annotations

from celery import shared_task
from django.utils import timezone

from agents import accepting, enrolment, principals, services
from common.database_time import database_now


@shared_task(expires=60)
def forget_nonces(**_: object) -> None:
    accepting.forget_nonces(now=timezone.now())


@shared_task(expires=300)
def forget_tokens(**_: object) -> None:
    enrolment.forget_tokens(now=timezone.now())


@shared_task(expires=60)
def notice_silent_nodes(**_: object) -> None:
    services.notice_silent_nodes(now=database_now())


@shared_task(expires=300)
def notice_silent_agents(**_: object) -> None:
    principals.notice_silent_agents(now=timezone.now())
