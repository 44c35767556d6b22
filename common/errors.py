"""The error tree of the control plane.

Every error that a person or a program can meet has a stable `code`, a message that says what to do, and a
kind that interfaces map to their own form (HTTP status, exit code). Pure: no Django here.
"""

from __future__ import annotations

from collections.abc import Mapping


class BackupsiteError(Exception):
    """Root of all anticipated errors. `permanent` says that trying the same again cannot help."""

    code = "error"
    http_status = 500
    permanent = True
    # When trying again may help, as far as it is known.
    retry_after_seconds: int | None = None

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        field: str | None = None,
        extra: Mapping[str, object] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.field = field
        self.extra = dict(extra or {})
        if code is not None:
            self.code = code


class InvalidInputError(BackupsiteError):
    """What was asked cannot be right as it stands; `field` names the part to change."""

    code = "invalid_input"
    http_status = 400


class NotSignedInError(BackupsiteError):
    """The caller is not known, or no longer."""

    code = "not_signed_in"
    http_status = 401


class TooManyAttemptsError(BackupsiteError):
    """Too much was tried; `retry_after_seconds` says when to go on."""

    code = "throttled"
    http_status = 429
    permanent = False


class NotAllowedError(BackupsiteError):
    """The object is visible to the caller but the action is not his."""

    code = "not_allowed"
    http_status = 403


class MfaNeededError(NotAllowedError):
    """This installation wants a second factor of administrators, and the caller has none."""

    code = "mfa_needed"


class StepUpNeededError(NotAllowedError):
    """The session is not fresh enough for this; the person has to confirm that it is he."""

    code = "step_up_needed"


class NotFoundError(BackupsiteError):
    """No such object, or none that the caller may know of: both look the same."""

    code = "not_found"
    http_status = 404


class ConflictError(BackupsiteError):
    """The state of things forbids it now; `code` says which state."""

    code = "conflict"
    http_status = 409


class QuotaError(ConflictError):
    """A hard limit of the tenant would be passed."""

    code = "quota_exceeded"


class ApprovalNeededError(ConflictError):
    """A second person has to agree first. `extra["approval"]` is the id of the request that was made for it."""

    code = "approval_needed"


class TenantSuspendedError(ConflictError):
    """The tenant may start nothing new; what is there can be read and restored."""

    code = "tenant_suspended"


class ChangedMeanwhileError(BackupsiteError):
    """The object is not any more what the caller saw last; nothing was done."""

    code = "changed_meanwhile"
    http_status = 412


class IfMatchNeededError(BackupsiteError):
    """This installation changes nothing unless the caller says what he saw last."""

    code = "if_match_needed"
    http_status = 428


class IdempotencyMismatchError(BackupsiteError):
    """The Idempotency-Key was used for another request."""

    code = "idempotency_mismatch"
    http_status = 422


class UnavailableError(BackupsiteError):
    """Something that is needed does not answer; trying again later may help."""

    code = "unavailable"
    http_status = 503
    permanent = False


class ConfigurationError(BackupsiteError):
    """The installation is set up wrongly; the message names the setting."""

    code = "configuration"
