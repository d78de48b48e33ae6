"""Authorization details: what a token is wanted for, finer than scopes (RFC 9396).

There is one type. It uses the common fields of section 2.2 alone: `actions` of a resource, the
resource in `locations`, and in `identifier` the one object on which they are to be done.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from troth.core.errors import Invalid
from troth.wire.api.faults import explain_fault
from troth.wire.oauth.errors import InvalidAuthorizationDetails

ACTION_TYPE: Literal["troth_action"] = "troth_action"
"""The `type` (section 2.1), and what `authorization_details_types_supported` says (section 10)."""

MAX_LENGTH = 4 * 1024
"""Characters of the parameter: all of it goes into a token, and the token into a header."""
MAX_DETAILS = 8

_Action = Annotated[str, Meta(min_length=1, max_length=64)]
_Location = Annotated[str, Meta(min_length=1, max_length=512)]
_Identifier = Annotated[str, Meta(max_length=256)]


class ActionDetail(
    Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True
):
    """Actions at a resource, named by one of its identifiers; "" as `identifier` means any object.

    What an identifier stands for is the resource's business: it is handed on as it is.
    """

    type: Literal["troth_action"]
    actions: Annotated[list[_Action], Meta(min_length=1, max_length=64)]
    locations: Annotated[list[_Location], Meta(max_length=4)] = []
    identifier: _Identifier = ""


_Details = Annotated[list[ActionDetail], Meta(min_length=1, max_length=MAX_DETAILS)]
_decoder = msgspec.json.Decoder(_Details)


def parse_details(text: str) -> list[ActionDetail]:
    """The parameter ``authorization_details``; else `InvalidAuthorizationDetails` (section 5)."""
    if len(text) > MAX_LENGTH:
        raise InvalidAuthorizationDetails(
            f"The authorization_details have more than {MAX_LENGTH:,} characters."
        )
    try:
        return [_check_text(one) for one in _decoder.decode(text)]
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise InvalidAuthorizationDetails(_explain(error)) from error


def read_details(claim: object) -> list[ActionDetail]:
    """The claim of a token (section 9) that was verified; `Invalid` if it is malformed."""
    if claim is None:
        return []
    try:
        return msgspec.convert(claim, _Details)
    except (msgspec.ValidationError, UnicodeError, RecursionError) as error:
        raise Invalid("The token's authorization_details are none of ours.") from error


def render_details(details: Iterable[ActionDetail]) -> list[dict[str, Any]]:
    """The claim (section 9), and what the answer says (section 7)."""
    return [msgspec.to_builtins(one) for one in details]


def _check_text(detail: ActionDetail) -> ActionDetail:
    for text in (*detail.actions, *detail.locations, detail.identifier):
        if not text.isprintable():
            raise InvalidAuthorizationDetails(
                "The texts of the authorization_details must be of printable characters."
            )
    return detail


def _explain(error: Exception) -> str:
    start = f"The authorization_details must be a JSON array of objects of type {ACTION_TYPE}"
    if isinstance(error, msgspec.ValidationError):
        return f"{start}. {explain_fault(str(error))}"
    return f"{start} (RFC 9396, section 2)."
