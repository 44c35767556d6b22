"""What moving data may take from the server: processor, disk, memory. Set in the mover's own process."""

from __future__ import annotations

import ctypes
import logging
import os
import platform
import resource
import signal
from contextlib import suppress
from pathlib import Path

from agents.agent_messages import AgentPolicy

logger = logging.getLogger(__name__)

_GENTLEST_NICE = 19
_HIGHEST_WEIGHT = 100
# ioprio_set: a number of the kernel's for each architecture; class and level as in linux/ioprio.h.
_IOPRIO_SET = {"x86_64": 251, "aarch64": 30, "riscv64": 30, "ppc64le": 273, "s390x": 282}
_WHO_PROCESS, _CLASS_BEST_EFFORT, _CLASS_IDLE, _CLASS_SHIFT = 1, 2, 3, 13
_PR_SET_PDEATHSIG = 1
# When memory runs out the kernel ends the mover before anything that the server is there for.
_OOM_SCORE = "500"


def nice_of(cpu_weight: int) -> int:
    """19 for the smallest weight, 0 for 100."""
    weight = min(max(cpu_weight, 1), _HIGHEST_WEIGHT)
    return round(_GENTLEST_NICE * (_HIGHEST_WEIGHT - weight) / (_HIGHEST_WEIGHT - 1))


def be_gentle(policy: AgentPolicy | None) -> None:
    """Priorities of this process and of the threads that it starts. What may not be set is not."""
    asked = policy or AgentPolicy(number=0, issued_at=None)  # type: ignore[arg-type]  # only its default limits are read
    with suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, nice_of(asked.cpu_weight))
    _set_io_class(_CLASS_IDLE if asked.idle_io else _CLASS_BEST_EFFORT)
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(_OOM_SCORE)


def keep_no_core() -> None:
    """What this process knows is not written to a file when it crashes."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))


def die_with_parent() -> None:
    """The kernel ends this process when the agent's is gone: its mounts, locks and grants go with it."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def _set_io_class(kind: int) -> None:
    number = _IOPRIO_SET.get(platform.machine())
    if number is None:
        return
    level = 0 if kind == _CLASS_IDLE else 7
    if ctypes.CDLL(None, use_errno=True).syscall(number, _WHO_PROCESS, 0, kind << _CLASS_SHIFT | level) != 0:
        logger.info("the IO priority cannot be set", extra={"errno": ctypes.get_errno()})
