"""Bad tokens at a resource server: every forgery is refused as an invalid token, in a sentence."""

from __future__ import annotations

import time
from typing import Any

import pytest

from tests.fakes.forgers import FAULTS, KEY_IN_HEADER, WITHOUT_EXP, Original, take_apart
from tests.fakes.issuer import make_private_key
from tests.fakes.oauth import ME
from tests.fakes.proofs import find_thumbprint, make_proof
from tests.unit.sdk.test_validator import URL, Stage
from troth.sdk.errors import InvalidProof, InvalidToken

HOLDER = make_private_key(5)


@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_forged_opens_nothing(fault: str) -> None:
    stage = Stage()
    text = FAULTS[fault](take_apart(stage.server.issue(), stage.server.key))
    with pytest.raises(InvalidToken) as caught:
        stage.check(text)
    assert caught.value.detail.endswith((".", ")"))
    assert stage.check(stage.server.issue()).subject == ME


@pytest.mark.parametrize(
    ("claim", "offset", "good"),
    [
        ("exp", -29, True),
        ("exp", -31, False),
        ("iat", 29, True),
        ("iat", 31, False),
        ("nbf", 29, True),
        ("nbf", 31, False),
    ],
)
def test_clocks_may_differ_by_thirty_seconds(claim: str, offset: int, good: bool) -> None:
    stage = Stage()
    times: dict[str, Any] = {claim: int(stage.clock.now().timestamp()) + offset}
    text = stage.server.issue(**times)
    if good:
        assert stage.check(text).subject == ME
        return
    with pytest.raises(InvalidToken, match=r"expired|future"):
        stage.check(text)


@pytest.mark.parametrize("claim", ["aud", "x"])
def test_very_many_of_anything_take_no_time_to_speak_of(claim: str) -> None:
    stage = Stage()
    many: dict[str, Any] = {claim: [f"{n:x}" for n in range(1_700)]}
    text = stage.server.issue(**many)
    started = time.process_time()
    if claim == "aud":
        with pytest.raises(InvalidToken, match="another resource"):
            stage.check(text)
    else:
        assert stage.check(text).subject == ME
    assert time.process_time() - started < 0.5


# Proofs


def show(stage: Stage, token: str, proof: str) -> Any:
    return stage.check(token, "dpop", proof=proof, method="GET", url=URL)


def bind(stage: Stage) -> tuple[str, Original]:
    """A token that is bound to a key, and a proof for it."""
    token = stage.server.issue(cnf={"jkt": find_thumbprint(HOLDER)})
    return token, take_apart(make_proof(HOLDER, "GET", URL, stage.clock.now(), token), HOLDER)


@pytest.mark.parametrize("fault", sorted(FAULTS.keys() - {*WITHOUT_EXP, *KEY_IN_HEADER}))
def test_a_forged_proof_is_none(fault: str) -> None:
    stage = Stage()
    token, proof = bind(stage)
    with pytest.raises(InvalidProof):
        show(stage, token, FAULTS[fault](proof))
    assert show(stage, token, proof.sign()).subject == ME


def test_a_proof_of_another_key_shows_no_possession() -> None:
    stage = Stage()
    token, proof = bind(stage)
    with pytest.raises(InvalidToken, match="another key"):
        show(stage, token, FAULTS["another key in the header"](proof))


@pytest.mark.parametrize(
    "claims",
    [
        {"htm": "POST"},
        {"htu": "https://thief.example/entries"},
        {"htu": f"{URL}/more"},
        {"ath": "x"},
        {"ath": None},
    ],
)
def test_a_proof_for_another_request_or_token_is_none(claims: dict[str, Any]) -> None:
    stage = Stage()
    token, proof = bind(stage)
    with pytest.raises(InvalidProof):
        show(stage, token, proof.sign(None, **claims))
    assert show(stage, token, proof.sign()).subject == ME


@pytest.mark.parametrize(("offset", "good"), [(29, True), (31, False), (-59, True), (-61, False)])
def test_a_proof_is_of_about_now(offset: int, good: bool) -> None:
    stage = Stage()
    token, proof = bind(stage)
    text = proof.sign(iat=int(stage.clock.now().timestamp()) + offset)
    if good:
        assert show(stage, token, text).subject == ME
        return
    with pytest.raises(InvalidProof):
        show(stage, token, text)


def test_a_proof_is_taken_once() -> None:
    stage = Stage()
    token, proof = bind(stage)
    assert show(stage, token, proof.sign()).subject == ME
    for jti in (None, proof.claims["jti"]):
        with pytest.raises(InvalidProof):
            show(stage, token, proof.sign(jti=jti))
