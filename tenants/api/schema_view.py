"""The OpenAPI document, made once in each process."""

from __future__ import annotations

from functools import cache
from typing import Any

from django.http import HttpResponse
from drf_spectacular.generators import SchemaGenerator
from drf_spectacular.views import SpectacularAPIView
from rest_framework.renderers import BaseRenderer
from rest_framework.request import Request


class SchemaView(SpectacularAPIView):
    """It is the same for everybody and takes a second or two, so each of its forms is kept."""

    def _get_schema_response(self, request: Request) -> HttpResponse:
        renderer = request.accepted_renderer
        name = self._get_filename(request, None)
        return HttpResponse(
            _document(type(renderer)),
            content_type=renderer.media_type,
            headers={"Content-Disposition": f'inline; filename="{name}"'},
        )


@cache
def document() -> dict[str, Any]:
    """Of all operations, as JSON has it; nobody changes it."""
    made: dict[str, Any] = SchemaGenerator().get_schema(request=None, public=True)
    return made


@cache
def _document(renderer: type[BaseRenderer]) -> bytes:
    made: bytes = renderer().render(document(), renderer_context={})
    return made
