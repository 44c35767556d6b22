"""What can go wrong with the agent program, each with a stable code and the exit code of its command."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_NOT_ENROLLED = 3
EXIT_UNREACHABLE = 4
EXIT_REFUSED = 5
EXIT_NOT_TRUSTED = 6
EXIT_JOB_FAILED = 7
EXIT_BUSY = 8
EXIT_INTERNAL = 70
# The service's manager starts the program again, which may be another release by then.
EXIT_START_ANEW = 75
EXIT_INTERRUPTED = 130
# As `--help` shows them; docs/agent.md has the same.
EXIT_CODES: Mapping[int, str] = MappingProxyType(
    {
        EXIT_OK: "done",
        EXIT_FAILED: (
            "something else went wrong (no root, its state folder is full or read-only), or the doctor found something"
        ),
        EXIT_USAGE: "the command line or agent.toml is wrong",
        EXIT_NOT_ENROLLED: "this server is not enrolled",
        EXIT_UNREACHABLE: "the control plane cannot be reached",
        EXIT_REFUSED: "the control plane refused, or its policy does",
        EXIT_NOT_TRUSTED: "what answered is not the control plane that this agent belongs to",
        EXIT_JOB_FAILED: "the backup or restore failed",
        EXIT_BUSY: "another instance of the agent runs",
        EXIT_INTERNAL: "a bug of the program; --debug shows where",
        EXIT_START_ANEW: "start it again: another release, or other pinned keys, are in place (daemon)",
        EXIT_INTERRUPTED: "interrupted",
    }
)


class AgentError(Exception):
    """Root of what a person at the server may read. The message says what to do."""

    code = "agent_error"
    exit_code = EXIT_FAILED

    def __init__(self, message: str, *, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        if code is not None:
            self.code = code


class UsageError(AgentError):
    """The command line or the configuration is wrong."""

    code = "bad_configuration"
    exit_code = EXIT_USAGE


class NotEnrolledError(AgentError):
    code = "not_enrolled"
    exit_code = EXIT_NOT_ENROLLED


class UnreachableError(AgentError):
    """Nobody answered, or somebody between here and the control plane did. Trying again may help."""

    code = "control_unreachable"
    exit_code = EXIT_UNREACHABLE


class RefusedError(AgentError):
    """The control plane itself refuses, with its own code and words."""

    exit_code = EXIT_REFUSED

    def __init__(self, message: str, *, code: str, retry_after_seconds: int = 0) -> None:
        super().__init__(message, code=code)
        self.retry_after_seconds = retry_after_seconds


class NotTrustedError(AgentError):
    """What answered is not the control plane that this agent was enrolled with. Nothing of it was used."""

    code = "not_trusted"
    exit_code = EXIT_NOT_TRUSTED


class PolicyRefusedError(AgentError):
    """A policy that is not signed, cannot be read, or is older than the one that is kept."""

    code = "policy_refused"


class UpdateError(AgentError):
    """A release that is not taken."""

    code = "update_refused"


class JobFailedError(AgentError):
    code = "job_failed"
    exit_code = EXIT_JOB_FAILED


class BusyError(AgentError):
    """Another instance has the lock."""

    code = "already_running"
    exit_code = EXIT_BUSY
