"""What the API server can answer, as errors that a person and a reconciler can act on."""

from __future__ import annotations

from typing import Any

from sluice.errors import SluiceError


class KubeError(SluiceError):
    """The API server refused a request.  ``status`` is the HTTP status, 0 when none came."""

    reason = "ApiError"
    status = 0

    def __init__(
        self,
        message: str,
        *,
        hint: str = "",
        reason: str | None = None,
        status: int | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message, hint=hint, reason=reason)
        if status is not None:
            self.status = status
        self.retry_after = retry_after


class NotFoundError(KubeError):
    """The object, its namespace or its kind does not exist."""

    reason = "NotFound"
    status = 404


class ConflictError(KubeError):
    """Someone else owns the name or a field, or the object changed meanwhile.

    ``reason``: ``AlreadyExists`` (POST), ``UidMismatch`` (the object is another one than the one
    that was read), ``FieldConflict`` (another manager owns a field), ``Conflict`` (it changed).
    """

    reason = "Conflict"
    status = 409


class ForbiddenError(KubeError):
    """RBAC, a quota or an admission policy said no."""

    reason = "Forbidden"
    status = 403


class UnauthorizedError(KubeError):
    """The credentials are not accepted."""

    reason = "Unauthorized"
    status = 401


class InvalidObjectError(KubeError):
    """The object does not pass the API server's validation."""

    reason = "Invalid"
    status = 422


class GoneError(KubeError):
    """The resource version is too old to continue a list or a watch from."""

    reason = "Expired"
    status = 410


class UnavailableError(KubeError):
    """The API server is away or overloaded; trying again later can help."""

    reason = "ApiUnavailable"
    status = 503


def _conflict_reason(body: dict[str, Any]) -> str:
    if body.get("reason") == "AlreadyExists":
        return "AlreadyExists"
    if any(cause.get("reason") == "FieldManagerConflict" for cause in _causes(body)):
        return "FieldConflict"
    text = str(body.get("message", "")).lower()
    if "uid mismatch" in text or ("uid" in text and "precondition" in text):
        return "UidMismatch"
    return "Conflict"


def _causes(body: dict[str, Any]) -> list[dict[str, Any]]:
    return (body.get("details") or {}).get("causes") or []


def _other_uid(status: int, body: dict[str, Any]) -> bool:
    """An apply onto an object with another uid is "invalid: field is immutable", not a conflict."""
    return status == 422 and any(cause.get("field") == "metadata.uid" for cause in _causes(body))


def from_response(
    status: int, body: dict[str, Any], what: str, retry_after: float | None = None
) -> KubeError:
    """The error for an HTTP answer; ``what`` reads like ``apply Deployment team/iris``."""
    said = str(body.get("message") or f"HTTP {status}").strip()[:400]
    message = f"The API server refused to {what}: {said}."
    if status == 404:
        return NotFoundError(message)
    if status == 409 or _other_uid(status, body):
        hint = {
            "AlreadyExists": "Rename one of the two, or delete the object if nobody needs it.",
            "UidMismatch": "Something else took this name; it is left alone.",
            "FieldConflict": "Another controller manages that field; let one of them release it.",
        }
        reason = _conflict_reason(body) if status == 409 else "UidMismatch"
        return ConflictError(message, hint=hint.get(reason, "It is read again."), reason=reason)
    if status == 403:
        return ForbiddenError(message, hint="Check the operator's role, quotas and policies.")
    if status == 401:
        return UnauthorizedError(message, hint="Check the service account or the kubeconfig.")
    if status == 410:
        return GoneError(message, hint="The list is read again.")
    if status in (400, 415, 422):
        return InvalidObjectError(message, status=status)
    if status == 429 or status >= 500:
        return UnavailableError(
            message, hint="It is tried again.", status=status, retry_after=retry_after
        )
    return KubeError(message, status=status)
