"""Backups, jobs, restores, and backup now."""

from __future__ import annotations

from typing import Any, ClassVar

from django.db import transaction
from django.db.models import Prefetch
from django.urls import reverse
from django.utils import timezone
from drf_spectacular.utils import OpenApiParameter, OpenApiTypes, extend_schema
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response

from backups.bulk import (
    BACKUP_VERBS,
    JOB_VERBS,
    BackupBulkSerializer,
    JobBulkSerializer,
)
from backups.drills import request_drill
from backups.file_restores import what_is_lost
from backups.models import Backup, Job, JobEvent
from backups.new_targets import request_new_disk, request_new_server
from backups.serializers import (
    BackupDetailSerializer,
    BackupSerializer,
    JobDetailSerializer,
    JobSerializer,
    NewDiskRestoreSerializer,
    NewServerRestoreSerializer,
    NoteSerializer,
    RestoreOrderSerializer,
    RestorePreviewSerializer,
    RestoreTargetSerializer,
    ServeSerializer,
)
from backups.services import (
    cancel_job,
    crosses_owners,
    reaches_others,
    remove_backups,
    request_restore,
    restore_choices,
    set_note,
)
from backups.serving import request_serving
from backups.states import BackupHealth, BackupStatus, JobKind, JobState
from backups.verifier import request_verification
from engine.manifest import CONTENT_DISK, CONTENT_STREAM, CONTENT_TREE
from tenants.access import get_for_user
from tenants.api import (
    READ,
    BulkResultSerializer,
    KeysetPaging,
    ScopedViewSet,
    bulk_response,
    by_boolean,
    by_choice,
    by_id,
    by_presence,
    by_text,
    numbers,
    times,
)
from tenants.api.filtering import QueryBooleanField
from tenants.roles import Action
from tenants.sign_in.confirming import require_confirmed

CONTENTS = [CONTENT_DISK, CONTENT_TREE, CONTENT_STREAM]
JOBS = Job.objects.select_related("requested_by").order_by("-created_at", "-pk")
JOBS_WITH_EVENTS = JOBS.prefetch_related(Prefetch("events", queryset=JobEvent.objects.order_by("pk")))


def job_answer(request: Request, job: Job) -> Response:
    """202 with the job as the caller may see it, and where to follow it."""
    seen = get_for_user(JOBS_WITH_EVENTS, person=request.user, action=Action.VIEW, pk=job.pk)
    location = reverse("api:job-detail", args=[job.pk])
    return Response(JobDetailSerializer(seen).data, status=202, headers={"Location": location})


class BackupViewSet(ScopedViewSet):
    queryset = Backup.objects.select_related("manifest", "vault").order_by("-created_at", "-pk")
    serializer_class = BackupSerializer
    detail_serializer_class = BackupDetailSerializer
    role_actions = {
        **READ,
        "verify": Action.RUN,
        "drill": Action.RUN,
        "partial_update": Action.EDIT,
        "destroy": Action.DELETE,
        "restore": Action.RESTORE,
        "restore_preview": Action.RESTORE,
        "restore_new_disk": Action.RESTORE,
        "restore_new_server": Action.RESTORE,
        "serve": Action.RESTORE,
        "bulk": Action.VIEW,
    }
    filters: ClassVar[dict[str, Any]] = {
        "tenant": by_id("tenant"),
        "server": by_id("server", none=True),
        "disk": by_id("disk", none=True),
        "definition": by_id("definition", none=True),
        "node": by_id("node", none=True),
        "vault": by_id("vault"),
        "storage": by_id("storage"),
        "type": by_text("type"),
        "content": by_choice("content", CONTENTS),
        "status": by_choice("status", [str(status) for status in BackupStatus]),
        "health": by_choice("health", [str(health) for health in BackupHealth]),
        "frozen": by_boolean("frozen"),
        "scheduled": by_presence("slot_at"),
        "removed": QueryBooleanField(),
        **numbers("size", "size_bytes"),
        **times("created", "created_at"),
        **times("finished", "finished_at"),
        **times("immutable", "immutable_until"),
    }
    search_fields = ("name", "server_name", "note")
    ordering_fields = ("created_at", "size_bytes")
    pagination_class = KeysetPaging
    etag_fields = ("note", "removed_at")
    action_parameters = {"restore_preview": frozenset({"target", "folder", "delete_extra"})}

    def apply_filters(self, queryset: Any, chosen: dict[str, Any]) -> Any:
        """Those that were removed are shown only when they are asked for."""
        return queryset if chosen.get("removed") else queryset.in_catalogue()

    @extend_schema(request=BackupBulkSerializer, responses=BulkResultSerializer)
    @action(detail=False, methods=["post"], filter_backends=[], pagination_class=None)
    def bulk(self, request: Request) -> Response:
        """Delete, verify, or write a note: up to 500 backups, each with its own result."""
        return bulk_response(self, BACKUP_VERBS, self.read_body(BackupBulkSerializer))

    @extend_schema(request=NoteSerializer, responses=BackupDetailSerializer)
    @transaction.atomic
    def partial_update(self, request: Request, pk: str) -> Response:
        backup = self.get_object()
        set_note(backup=backup, **self.read_body(NoteSerializer))
        return self.answer(backup)

    def destroy(self, request: Request, pk: str) -> Response:
        remove_backups(backups=[self.get_object()], actor=request.user, now=timezone.now())
        return Response(status=204)

    @extend_schema(request=None, responses={202: JobDetailSerializer})
    @action(detail=True, methods=["post"])
    def verify(self, request: Request, pk: str) -> Response:
        """Have every block opened, as a job; `verified_at` and `health` say what came of it.

        While a check of the backup waits or runs, the answer is that one.
        """
        job = request_verification(backup=self.get_object(), actor=request.user, now=timezone.now())
        return job_answer(request, job)

    @extend_schema(request=None, responses={202: JobDetailSerializer})
    @action(detail=True, methods=["post"])
    def drill(self, request: Request, pk: str) -> Response:
        """Restore it for real to a scratch file, compare, and remove that; `drilled_at` says when it passed.

        409 `no_drill_storage` where no storage with room is set aside for the tenant.
        """
        return job_answer(request, request_drill(backup=self.get_object(), actor=request.user, now=timezone.now()))

    @extend_schema(request=RestoreOrderSerializer, responses={202: JobDetailSerializer})
    @action(detail=True, methods=["post"])
    @transaction.atomic
    def restore(self, request: Request, pk: str) -> Response:
        """Restore onto a disk. Everything on that disk is lost; `restore-preview` says what.

        A backup of files goes into a tree of files: whole or by path, over what is there or into a new folder.
        """
        backup = self.get_object()
        order = self.read_body(RestoreOrderSerializer)
        if crosses_owners(backup=backup, target=order["target"]):
            require_confirmed(request)
        job = request_restore(backup=backup, actor=request.user, now=timezone.now(), **order)
        return job_answer(request, job)

    @extend_schema(request=ServeSerializer, responses={202: JobDetailSerializer})
    @action(detail=True, methods=["post"])
    def serve(self, request: Request, pk: str) -> Response:
        """Have the server's node serve the disk image over NBD, read-only, on a unix socket: nothing is restored.

        The job's message says where as soon as it runs. Until it ends nothing of the backup is removed.
        """
        order = self.read_body(ServeSerializer)
        job = request_serving(backup=self.get_object(), actor=request.user, now=timezone.now(), **order)
        return job_answer(request, job)

    @extend_schema(request=NewDiskRestoreSerializer, responses={202: JobDetailSerializer})
    @action(detail=True, methods=["post"], url_path="restore-new-disk")
    @transaction.atomic
    def restore_new_disk(self, request: Request, pk: str) -> Response:
        """Restore to a new disk of a server; nothing is lost.

        A libvirt server that is shut off gets it attached. The job's message says whether, its warnings what to do.
        """
        backup = self.get_object()
        order = self.read_body(NewDiskRestoreSerializer)
        if reaches_others(backup, order["server"]):
            require_confirmed(request)
        job = request_new_disk(backup=backup, actor=request.user, now=timezone.now(), **order)
        return job_answer(request, job)

    @extend_schema(request=NewServerRestoreSerializer, responses={202: JobSerializer(many=True)})
    @action(detail=True, methods=["post"], url_path="restore-new-server", filter_backends=[], pagination_class=None)
    @transaction.atomic
    def restore_new_server(self, request: Request, pk: str) -> Response:
        """Make a server of what the backup kept of the old one, shut off, with all disks of the same run."""
        backup, order = self.get_object(), self.read_body(NewServerRestoreSerializer)
        jobs = request_new_server(backup=backup, actor=request.user, now=timezone.now(), **order)
        return Response(JobSerializer(jobs, many=True).data, status=202)

    @extend_schema(
        parameters=[
            OpenApiParameter("target", OpenApiTypes.UUID, required=True),
            OpenApiParameter("folder", OpenApiTypes.STR),
            OpenApiParameter("delete_extra", OpenApiTypes.BOOL),
        ],
        responses=RestorePreviewSerializer,
    )
    @action(detail=True, url_path="restore-preview", filter_backends=[])
    def restore_preview(self, request: Request, pk: str) -> Response:
        """What a restore onto the target would destroy, and whether it is refused."""
        backup = self.get_object()
        body = RestoreTargetSerializer(data=request.query_params.dict(), context=self.get_serializer_context())
        body.is_valid(raise_exception=True)
        files = body.validated_data["files"].check()
        [(target, refusal)] = restore_choices(backup=backup, targets=[body.validated_data["target"]], files=files)
        warning = what_is_lost(target, files, content=backup.content)
        shown = {"backup": backup, "target": target, "warning": warning}
        return Response(RestorePreviewSerializer({**shown, "refused": refusal is not None, "refusal": refusal}).data)


class JobViewSet(ScopedViewSet):
    queryset = JOBS_WITH_EVENTS
    serializer_class = JobSerializer
    detail_serializer_class = JobDetailSerializer
    role_actions = {**READ, "cancel": Action.CANCEL, "bulk": Action.VIEW}
    filters: ClassVar[dict[str, Any]] = {
        "tenant": by_id("tenant"),
        "server": by_id("disk__server"),
        "disk": by_id("disk", none=True),
        "node": by_id("node", none=True),
        "definition": by_id("definition", none=True),
        "backup": by_id("backup", none=True),
        "state": by_choice("state", [str(state) for state in JobState]),
        "kind": by_choice("kind", [str(kind) for kind in JobKind]),
        "code": by_text("code"),
        "scheduled": by_presence("slot_at"),
        **times("created", "created_at"),
        **times("started", "started_at"),
        **times("finished", "finished_at"),
    }
    search_fields = ("backup_name",)
    ordering_fields = ("created_at",)
    pagination_class = KeysetPaging

    def get_queryset(self) -> Any:
        jobs = super().get_queryset()
        return jobs.prefetch_related(None) if self.action == "list" else jobs

    @extend_schema(request=JobBulkSerializer, responses=BulkResultSerializer)
    @action(detail=False, methods=["post"], filter_backends=[], pagination_class=None)
    def bulk(self, request: Request) -> Response:
        """Cancel up to 500 jobs, each with its own result."""
        return bulk_response(self, JOB_VERBS, self.read_body(JobBulkSerializer))

    @extend_schema(request=None, responses={202: JobDetailSerializer})
    @action(detail=True, methods=["post"])
    def cancel(self, request: Request, pk: str) -> Response:
        """At once what waits, within seconds what runs."""
        job = self.get_object()
        cancel_job(job=job, actor=request.user, now=timezone.now())
        return job_answer(request, job)


class RestoreViewSet(JobViewSet):
    """The jobs of kind restore, under a name of their own; for reading."""

    queryset = JOBS_WITH_EVENTS.filter(kind=JobKind.RESTORE)
    role_actions = READ
    filters = {name: field for name, field in JobViewSet.filters.items() if name != "kind"}
    http_method_names = ["get", "head"]
    cancel = None
    bulk = None
