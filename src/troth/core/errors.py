"""The one error type. A kind has a stable code; the detail is safe to show and says what to do.

Status codes of HTTP and gRPC exist only at the edges, which map kinds to them. A denial that is a
normal answer is a value, not an error; these are for requests that can't be carried out.
"""

from __future__ import annotations

from typing import ClassVar


class TrothError(Exception):
    """Base of all errors that may be shown to a caller.

    `detail` is a sentence for the caller and never holds a secret; the inside story goes into the
    exception chain and from there to the log only.
    """

    code: ClassVar[str] = "internal"
    retryable: ClassVar[bool] = False

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail


class Invalid(TrothError):
    """The request is malformed or breaks a rule of its format."""

    code = "invalid_request"


class Unauthenticated(TrothError):
    """Nobody proved who is calling."""

    code = "unauthenticated"


class Denied(TrothError):
    """The caller is known and may not do this."""

    code = "permission_denied"


class NotFound(TrothError):
    """The thing named doesn't exist."""

    code = "not_found"


class Conflict(TrothError):
    """The request contradicts something that exists, such as a name that is taken."""

    code = "conflict"


class Refused(TrothError):
    """Well-formed and permitted, but the present state doesn't allow it."""

    code = "failed_precondition"


class TooLarge(TrothError):
    """A bound on size or number was exceeded."""

    code = "too_large"


class Passing(TrothError):
    """What may be over soon; `retry_after` says in how many seconds, if that is known."""

    retryable = True

    def __init__(self, detail: str, retry_after: float | None = None) -> None:
        super().__init__(detail)
        self.retry_after = retry_after


class Limited(Passing):
    """Too many requests; come back later."""

    code = "rate_limited"


class Unavailable(Passing):
    """Something that must be there to answer safely is away; come back later."""

    code = "unavailable"


class Unimplemented(TrothError):
    """Not offered here."""

    code = "unimplemented"


class Internal(TrothError):
    """A promise of our own was broken; the log has the reason under the request id."""

    code = "internal"


KINDS: tuple[type[TrothError], ...] = (
    Invalid,
    Unauthenticated,
    Denied,
    NotFound,
    Conflict,
    Refused,
    TooLarge,
    Limited,
    Unavailable,
    Unimplemented,
    Internal,
)


def error_of(code: str, detail: str) -> TrothError:
    """The error whose kind has `code`; an unknown code becomes `Internal`."""
    for kind in KINDS:
        if kind.code == code:
            return kind(detail)
    return Internal(detail)
