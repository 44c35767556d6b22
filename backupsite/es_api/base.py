"""The base of the es resources: parameters, the data center, and answers with `task_id`, `status` and `result`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from django.http.response import HttpResponseBase
from rest_framework.exceptions import MethodNotAllowed
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from backups.models import Job
from backupsite.es_api.errors import as_failure
from backupsite.es_api.finding import find_dc
from backupsite.es_api.parameters import Parameters, read_parameters
from backupsite.es_api.streams import stream_of
from common.errors import NotFoundError
from tenants.api.guard import GuardedMixin, refuse_beyond_token
from tenants.models import Person, Tenant
from tenants.roles import Action

CREATED, PENDING = 201, "PENDING"


class EsView(GuardedMixin, APIView):
    """A resource names its parameters by method; what is not named answers 405. `self.given` holds them, `self.dc` the
    data center that was asked for, if any.

    It is not in the OpenAPI document: its clients know the grammar, and OPTIONS (`es help`) says it in words.
    """

    schema = None
    parameters: ClassVar[Mapping[str, type[Parameters]]]
    # What each method is in the table of roles; for tokens.
    role_actions: ClassVar[Mapping[str, Action]] = {"GET": Action.VIEW}
    # Our code -> another status than the grammar has for it elsewhere.
    statuses: ClassVar[Mapping[str, int]] = {}
    http_method_names = ["get", "post", "put", "delete", "options"]

    given: dict[str, Any]
    dc: Tenant | None = None

    def initial(self, request: Request, *args: Any, **options: Any) -> None:
        super().initial(request, *args, **options)
        method = request.method or ""
        if method == "OPTIONS":
            return
        if method not in self.role_actions:
            raise MethodNotAllowed(method)
        if any("\0" in name for name in options.values()):
            # Nothing has such a name, and not every database looks for it.
            raise NotFoundError("There is nothing of this name.")
        self.given = read_parameters(request, self.parameters[method], path_dc=options.get("dc"))
        refuse_beyond_token(request, self.role_action)
        if "dc" in self.given:
            self.dc = find_dc(request.user, self.given.pop("dc"))
        if "ES-STREAM" not in request.headers:
            self.claim_key(request)

    @property
    def role_action(self) -> Action:
        return self.role_actions[self.request.method or ""]

    @property
    def person(self) -> Person:
        return self.request.user

    def options(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        return Response({"name": type(self).__name__, "description": self._description()})

    def _description(self) -> str:
        lines = [(type(self).__doc__ or "").strip(), ""]
        for method, serializer_class in self.parameters.items():
            lines.append(method)
            for name, field in serializer_class().get_fields().items():
                need = " (needed)" if field.required else ""
                lines.append(f"    -{name}{need}  {field.help_text or ''}".rstrip())
        return "\n".join(lines)

    def success(self, result: Any, *, status: int = 200) -> Response:
        return Response({"task_id": None, "status": "SUCCESS", "result": result}, status=status)

    def pending(self, job: Job) -> HttpResponseBase:
        """201 with the job's id as the task; held open until it has ended for a client that asks for it."""
        wanted = "ES-STREAM" in self.request.headers
        stream = stream_of(job, person=self.person, token=self.request.auth) if wanted else None
        if stream is None:
            return Response(
                {"task_id": str(job.pk), "status": PENDING, "result": None},
                status=CREATED,
                headers={"es_task_id": str(job.pk)},
            )
        return stream

    def handle_exception(self, error: Exception) -> Any:
        answer = super().handle_exception(error)
        known = isinstance(getattr(answer, "data", None), dict) and "errors" in answer.data
        return as_failure(answer, self.statuses) if known else answer

    def finalize_response(self, request: Any, response: Any, *args: Any, **options: Any) -> Any:
        response = super().finalize_response(request, response, *args, **options)
        name = getattr(getattr(self.request, "user", None), "username", "")
        for header, text in (("es_username", name), ("es_dc", self.dc.name if self.dc else "")):
            if text and text.isascii():
                response.headers[header] = text
        return response
