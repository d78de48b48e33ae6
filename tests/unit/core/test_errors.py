import pytest

from troth.core.errors import KINDS, Internal, TrothError, error_of

CODES = {
    "invalid_request",
    "unauthenticated",
    "permission_denied",
    "not_found",
    "conflict",
    "failed_precondition",
    "too_large",
    "rate_limited",
    "unavailable",
    "unimplemented",
    "internal",
}


def test_codes_are_stable_and_each_belongs_to_one_kind():
    assert {kind.code for kind in KINDS} == CODES
    assert len(KINDS) == len(CODES)


@pytest.mark.parametrize("kind", KINDS)
def test_a_code_leads_back_to_its_kind(kind):
    error = error_of(kind.code, "A sentence.")
    assert type(error) is kind
    assert isinstance(error, TrothError)
    assert error.detail == str(error) == "A sentence."


def test_an_unknown_code_becomes_internal():
    assert type(error_of("surprise", "x")) is Internal


def test_only_passing_conditions_invite_a_retry():
    assert {kind.code for kind in KINDS if kind.retryable} == {"rate_limited", "unavailable"}
