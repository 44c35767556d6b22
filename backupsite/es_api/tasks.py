"""Tasks: the jobs of `/api/v1/jobs/` in the words of the es grammar."""

from __future__ import annotations

from datetime import UTC, datetime, time, timedelta
from typing import Any

from django.db import transaction
from django.db.models import Count, Q
from django.utils import timezone
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from backups.models import Job
from backups.services import cancel_job
from backups.states import ACTIVE, JobState
from backupsite.es_api.base import EsView
from backupsite.es_api.finding import within
from backupsite.es_api.listing import ordering
from backupsite.es_api.parameters import Parameters, order_of
from backupsite.es_api.task_shapes import STATES, log_line, task_details, task_status
from tenants.access import get_for_user
from tenants.roles import Action

_JOBS = Job.objects.select_related("disk__server", "requested_by")
_WORDS = {
    "PENDING": sorted(ACTIVE),
    "SUCCESS": [JobState.OK],
    "FAILURE": [JobState.FAILED],
    "REVOKED": [JobState.CANCELED],
}
_PAGE, _LATEST, _MOST_TASKS = 100, 10, 1000
_TYPES = ("dc", "vm", "node", "nodestorage", "subnet", "image", "vmtemplate", "iso", "domain", "user", "role")


class CancelParameters(Parameters):
    force = serializers.BooleanField(default=False, help_text="Makes no difference: it ends within seconds.")


class LogParameters(Parameters):
    page = serializers.IntegerField(
        required=False, min_value=1, max_value=100_000, help_text="Of 100; else the last ten."
    )
    status = serializers.ChoiceField(choices=["", *_WORDS], required=False)
    object_type = serializers.ChoiceField(choices=["", *_TYPES], required=False, help_text="Only vm has any.")
    object_name = serializers.CharField(required=False, allow_blank=True, max_length=100)
    show_running = serializers.BooleanField(default=False)
    hide_auto = serializers.BooleanField(default=False)
    date_from = serializers.DateField(required=False, allow_null=True)
    date_to = serializers.DateField(required=False, allow_null=True)
    order_by = order_of("time; a minus before turns it round.")


class StatsParameters(Parameters):
    last = serializers.IntegerField(default=86_400, min_value=1, max_value=366 * 86_400, help_text="Seconds.")


class TaskList(EsView):
    """Ids of what waits or runs."""

    parameters = {"GET": Parameters}

    def get(self, request: Request) -> Response:
        running = (
            within(Job.objects.for_user(self.person), self.dc).filter(state__in=ACTIVE).order_by("created_at", "pk")
        )
        return Response([str(key) for key in running.values_list("pk", flat=True)[:_MOST_TASKS]])


class _OneTask(EsView):
    parameters = {"GET": Parameters}

    def found(self, task: str) -> Job:
        jobs = within(_JOBS.all(), self.dc)
        return get_for_user(jobs, person=self.person, action=self.role_action, pk=task)


class Task(_OneTask):
    """What a task is about, and how far it is."""

    def get(self, request: Request, task: str) -> Response:
        return Response(task_details(self.found(task)))


class TaskStatus(_OneTask):
    """201 while it waits or runs, then 200 for success, 400 for failure, 410 when it was canceled."""

    def get(self, request: Request, task: str) -> Response:
        code, body = task_status(self.found(task))
        return Response(body, status=code)


class TaskDone(_OneTask):
    """Whether it has succeeded; the status codes are those of /status."""

    def get(self, request: Request, task: str) -> Response:
        job = self.found(task)
        return Response({"task_id": str(job.pk), "done": job.state == JobState.OK}, status=STATES[job.state][0])


class TaskCancel(_OneTask):
    """Cancel: at once what waits, within seconds what runs."""

    parameters = {"PUT": CancelParameters}
    role_actions = {"PUT": Action.CANCEL}

    @transaction.atomic
    def put(self, request: Request, task: str) -> Response:
        job = self.found(task)
        cancel_job(job=job, actor=self.person, now=timezone.now())
        code, body = task_status(_JOBS.get(pk=job.pk))
        return Response(body, status=code)


class TaskLog(EsView):
    """The log of tasks, the latest first. What else people do is in the audit."""

    parameters = {"GET": LogParameters}

    def get(self, request: Request) -> Response:
        chosen = within(_JOBS.for_user(self.person), self.dc).filter(self._chosen())
        seen = chosen.order_by(*ordering(self.given.get("order_by") or "-time", {"time": "created_at"}), "-pk")
        if "page" not in self.given:
            return Response({"results": [log_line(job) for job in seen[:_LATEST]]})
        page = self.given["page"]
        jobs = list(seen[(page - 1) * _PAGE : page * _PAGE + 1])
        following = page + 1 if len(jobs) > _PAGE else None
        shown = [log_line(job) for job in jobs[:_PAGE]]
        return Response({"next": following, "previous": page - 1 or None, "results": shown})

    def _chosen(self) -> Q:
        given, chosen = self.given, Q()
        if given.get("object_name") and not given.get("object_type"):
            raise serializers.ValidationError({"object_type": ["Needed with object_name."]}, code="required")
        if given.get("object_type") not in {None, "", "vm"}:
            return Q(pk=None)
        if given.get("object_name"):
            chosen &= Q(disk__server__name__icontains=given["object_name"])
        if given.get("status"):
            chosen &= Q(state__in=_WORDS[given["status"]])
        if given["show_running"]:
            chosen &= Q(state__in=ACTIVE)
        if given["hide_auto"]:
            chosen &= Q(slot_at=None)
        for name, lookup in (("date_from", "created_at__gte"), ("date_to", "created_at__lte")):
            if given.get(name):
                chosen &= Q(**{lookup: datetime.combine(given[name], time.min, tzinfo=UTC)})
        return chosen


class TaskLogStats(EsView):
    """How many tasks of the last seconds there are of each state."""

    parameters = {"GET": StatsParameters}

    def get(self, request: Request) -> Response:
        since = timezone.now() - timedelta(seconds=self.given["last"])
        seen = within(Job.objects.for_user(self.person), self.dc).filter(created_at__gte=since)
        counts: dict[str, Any] = dict(seen.order_by().values_list("state").annotate(number=Count("pk")))
        shown = {
            "pending": ACTIVE,
            "succeeded": [JobState.OK],
            "failed": [JobState.FAILED],
            "revoked": [JobState.CANCELED],
        }
        return Response({name: sum(counts.get(state, 0) for state in states) for name, states in shown.items()})
