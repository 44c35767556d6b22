"""The launcher with stand-ins for the service's own processes; everything else is real. Also run as a script.

python -m tests.stack.stand_in up | smoke [different | endless]
"""

from __future__ import annotations

import sys
import time
import types
from dataclasses import replace

from backupsite.stack import __main__ as launcher
from backupsite.stack.probes import http_ok, log_says
from backupsite.stack.process import ChildSpec
from backupsite.stack.programs import Programs

_SERVER = """
import http.server, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers()
    def log_message(self, *parts): pass
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""
_WORKER = """
import subprocess, time
subprocess.Popen(["sleep", "600"])
print("ready.", flush=True)
time.sleep(600)
"""


def _setup(programs: Programs) -> ChildSpec:
    return replace(programs._python("setup", "control"), argv=(sys.executable, "-c", "print('done')"))


def _long_running(programs: Programs) -> tuple[ChildSpec, ...]:
    def server(name: str, port: int) -> ChildSpec:
        argv = (sys.executable, "-c", _SERVER, str(port))
        return replace(programs._python(name, name), argv=argv, ready=http_ok(port, "/livez"))

    def worker(name: str) -> ChildSpec:
        return replace(programs._python(name, name), argv=(sys.executable, "-c", _WORKER), ready=log_says("ready"))

    port = programs.settings.port
    return (
        server("web", port),
        server("signer", port + 2),
        worker("control"),
        worker("checks"),
        worker("node"),
        worker("beat"),
        worker("reaper"),
    )


def use_stand_ins() -> None:
    Programs.setup = _setup
    Programs.long_running = _long_running


def use_main_job(*, identical: bool, seconds: float = 0) -> None:
    """A main job that knows its result, and tells it after so many seconds."""
    module = types.ModuleType("backupsite.stack.demo")
    result = types.SimpleNamespace(
        identical=identical, reason="disk differs at block 7", summary=("compared",), logins=()
    )

    def run_main_job(stack: object, terminal: object, smoke: bool) -> types.SimpleNamespace:
        time.sleep(seconds)
        return result

    module.run_main_job = run_main_job
    sys.modules[module.__name__] = module


if __name__ == "__main__":
    use_stand_ins()
    use_main_job(identical="different" not in sys.argv, seconds=600 if "endless" in sys.argv else 0)
    sys.exit(launcher.main([argument for argument in sys.argv[1:] if argument not in {"different", "endless"}]))
