"""The installer of the agent program and its archive, for anybody: there is no secret in either.

Both come from the folder `agent` of the data, where `make agent-build` puts them.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import msgspec
from django.conf import settings
from django.http import FileResponse, Http404, HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.urls import reverse
from django.views.decorators.http import require_safe

from agents.agent_messages import ReleaseManifest

FOLDER = "agent"
_FILE = re.compile(r"backupsite-agent-[A-Za-z0-9.+-]{1,80}\.tar\.gz\Z")
_TEMPLATE = Path(__file__).parents[1] / "templates" / "agents" / "install.sh"
# What `curl -f` makes an error of, and a person reads all the same.
_NOT_BUILT = "# There is no agent program here yet: the operator runs `make agent-build`.\nexit 1\n"
_SHELL = "text/x-shellscript; charset=utf-8"


@require_safe
def install_script(request: HttpRequest) -> HttpResponse:
    """What the install line pipes into `sh`. It has the SHA-256 of what it downloads."""
    release = _release()
    if release is None:
        return HttpResponse(_NOT_BUILT, content_type=_SHELL, status=503)
    portal = settings.CONFIG.portal_url.rstrip("/")
    told = {
        "@URL@": settings.CONFIG.gate_url.rstrip("/"),
        "@DOWNLOAD@": portal + reverse("agent-download", args=[release.file]),
        "@SHA256@": release.sha256,
        "@NUMBER@": str(release.number),
    }
    script = _TEMPLATE.read_text()
    for place, text in told.items():
        script = script.replace(place, shlex.quote(text))
    return HttpResponse(script, content_type=_SHELL)


@require_safe
def download(request: HttpRequest, file: str) -> HttpResponseBase:
    """The archive of the present release, and nothing else of the folder."""
    release = _release()
    if release is None or file != release.file:
        raise Http404
    try:
        content = (settings.CONFIG.data / FOLDER / file).open("rb")
    except OSError:
        raise Http404 from None
    return FileResponse(content, content_type="application/gzip", as_attachment=True, filename=file)


def _release() -> ReleaseManifest | None:
    """What was built last; None where nothing was, or what is told of it cannot be right."""
    try:
        found = msgspec.json.decode((settings.CONFIG.data / FOLDER / "release.json").read_bytes(), type=ReleaseManifest)
    except (OSError, msgspec.DecodeError):
        return None
    is_right = _FILE.match(found.file) and re.fullmatch(r"[0-9a-f]{64}", found.sha256) and found.number > 0
    return found if is_right else None
