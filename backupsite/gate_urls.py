"""URLs of the signer process: the session gate, what agents ask, and the key gate for the portal."""

from django.urls import include, path

from agents.protocol import PATH_PREFIX
from backups import gate
from backupsite.health import livez, readyz
from vaults import key_gate

_PREFIX = PATH_PREFIX.lstrip("/")

handler400 = "backupsite.error_handler.bad_request"
handler404 = "backupsite.error_handler.page_not_found"
handler500 = "backupsite.error_handler.server_error"

urlpatterns = [
    path("livez", livez),
    path("readyz", readyz),
    path("agent/v1/", include("backups.agent_urls")),
    path(f"{_PREFIX}open", gate.open_view),
    path(f"{_PREFIX}heartbeat", gate.heartbeat_view),
    path(f"{_PREFIX}grants/put", gate.put_grants_view),
    path(f"{_PREFIX}grants/get", gate.get_grants_view),
    path(f"{_PREFIX}commit", gate.commit_view),
    path(f"{_PREFIX}target-opened", gate.target_opened_view),
    path(f"{_PREFIX}copied", gate.copied_view),
    path(f"{_PREFIX}copy-checked", gate.copy_checked_view),
    path(f"{_PREFIX}restore-written", gate.restore_written_view),
    path(f"{_PREFIX}restore-done", gate.restore_done_view),
    path(f"{_PREFIX}serving", gate.serving_view),
    path(f"{_PREFIX}serve-done", gate.serve_done_view),
    path(f"{_PREFIX}fail", gate.fail_view),
    path(f"{key_gate.PATH_PREFIX.lstrip('/')}show", key_gate.show_view),
    path(f"{key_gate.PATH_PREFIX.lstrip('/')}rotate", key_gate.rotate_view),
]
