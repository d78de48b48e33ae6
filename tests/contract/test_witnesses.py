"""What every driver of witnesses must do, whatever stands at the other end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path

import pytest

from tests.fakes import postbox
from tests.fakes.jwksserver import make_certificate
from tests.fakes.postbox import Postbox, Respond, open_postbox, say
from tests.fakes.witnesses import OtherLog, make_signer
from troth.audit.checkpoint import parse_checkpoint
from troth.audit.note import render_signature
from troth.audit.witness import (
    SIZE_TYPE,
    Cosigned,
    Declined,
    Reason,
    Submission,
    parse_submission,
)
from troth.core.errors import Invalid, Unavailable
from troth.drivers.witnesses import BUILT_IN, Whereabouts, Witness, load_driver

DRIVERS = sorted(BUILT_IN)
SECONDS = 5.0


@pytest.fixture
def submission() -> Submission:
    log = OtherLog()
    log.grow(20)
    return Submission(12, log.prove(12, 20), log.sign())


def talk(
    folder: Path,
    driver: str,
    respond: Respond,
    act: Callable[[Witness, Postbox], Coroutine[object, object, None]],
    *,
    seconds: float = SECONDS,
    name: str = "localhost",
    trusted: bool = True,
) -> None:
    """Let `act` use a driver whose witness answers so, by TLS."""
    context, pem = make_certificate(folder, name)
    authorities = folder / "ca.pem"
    authorities.write_text(pem)

    async def run() -> None:
        async with open_postbox(respond, context) as box:
            where = Whereabouts(
                f"https://localhost:{box.port}/prefix/", authorities if trusted else None
            )
            await act(load_driver(driver)(where, seconds), box)

    asyncio.run(run())


@pytest.mark.parametrize("driver", DRIVERS)
def test_it_asks_as_the_protocol_says(driver: str, tmp_path: Path, submission: Submission) -> None:
    signer = make_signer()
    note = submission.note
    made = signer.cosign(parse_checkpoint(note.text), note.text, 1_700_000_000)
    answer = "".join(map(render_signature, made)).encode()

    async def act(witness: Witness, box: Postbox) -> None:
        for _ in range(2):
            assert await witness.add_checkpoint(submission) == Cosigned(made)
        assert box.heads[0].startswith("POST /prefix/add-checkpoint HTTP/1.1\r\n")
        assert parse_submission(box.bodies[0]) == submission

    talk(tmp_path, driver, say(200, answer), act)


@pytest.mark.parametrize("driver", DRIVERS)
def test_refusals_are_values(driver: str, tmp_path: Path, submission: Submission) -> None:
    for respond, expected in (
        (say(409, b"7\n", content_type=SIZE_TYPE), Declined(Reason.STALE, 7)),
        (say(409, b"no\n", content_type="text/plain"), Declined(Reason.FORKED)),
        (say(422), Declined(Reason.INCONSISTENT)),
        (say(404), Declined(Reason.UNKNOWN_LOG)),
        (say(403), Declined(Reason.UNSIGNED)),
        (say(400), Declined(Reason.MALFORMED)),
    ):

        async def act(witness: Witness, _: Postbox, expected: Declined = expected) -> None:
            assert await witness.add_checkpoint(submission) == expected

        talk(tmp_path, driver, respond, act)


ODD: dict[str, Respond] = {
    "error": say(500),
    "empty": say(200),
    "page": say(200, b"<html>Welcome!</html>", content_type="text/html"),
    "redirect": say(307, location="https://localhost:1/"),
    "moved": say(301, b"x", location="http://169.254.169.254/latest"),
    "no size": say(409, content_type=SIZE_TYPE),
    "odd size": say(409, b"lots\n", content_type=SIZE_TYPE),
    "compressed": say(200, b"\x1f\x8b", content_encoding="gzip"),
    "large": say(200, bytes(10 << 20)),
    "flood": postbox.flood(10 << 20),
    "babble": postbox.babble,
    "cut off": postbox.drop,
}


@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize("odd", ODD)
def test_what_no_witness_says_is_unavailable(
    driver: str, odd: str, tmp_path: Path, submission: Submission
) -> None:
    async def act(witness: Witness, _: Postbox) -> None:
        with pytest.raises(Unavailable) as caught:
            await witness.add_checkpoint(submission)
        assert "localhost" in caught.value.detail

    talk(tmp_path, driver, ODD[odd], act)


@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize("respond", [postbox.hang, postbox.drip])
def test_who_takes_too_long_is_given_up(
    driver: str, respond: Respond, tmp_path: Path, submission: Submission
) -> None:
    async def act(witness: Witness, _: Postbox) -> None:
        with pytest.raises(Unavailable, match="didn't answer in"):
            await witness.add_checkpoint(submission)

    talk(tmp_path, driver, respond, act, seconds=0.3)


@pytest.mark.parametrize("driver", DRIVERS)
def test_who_it_is_is_verified(driver: str, tmp_path: Path, submission: Submission) -> None:
    async def act(witness: Witness, box: Postbox) -> None:
        with pytest.raises(Unavailable, match=r"(?i)certificate"):
            await witness.add_checkpoint(submission)
        assert box.bodies == []

    talk(tmp_path, driver, say(200), act, name="witness.example")
    talk(tmp_path, driver, say(200), act, trusted=False)


@pytest.mark.parametrize("driver", DRIVERS)
def test_nobody_there_is_unavailable(driver: str, tmp_path: Path, submission: Submission) -> None:
    async def run() -> None:
        async with open_postbox(say(200)) as box:
            port = box.port
        for where in (
            Whereabouts(f"https://localhost:{port}"),
            Whereabouts(f"http://localhost:{port}"),
            Whereabouts("https://localhost:1", tmp_path / "no-such-file.pem"),
            Whereabouts("https://a..b/"),
            Whereabouts("https://xn--/"),
        ):
            with pytest.raises(Unavailable):
                await load_driver(driver)(where, SECONDS).add_checkpoint(submission)

    asyncio.run(run())


@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize(
    "url",
    [
        "",
        "witness.example",
        "http://witness.example",
        "http://10.0.0.1/",
        "ftp://localhost/",
        "file:///etc/passwd",
        "https://",
        "https://witness.example:99999/",
        "https://witness.example:0/",
        "https://user:hidden@witness.example/",
        "https://hidden@witness.example/",
        "https://user:hidden@",
        "https://user:hidden@witness.example:99999/",
        "http://user:hidden@witness.example/",
        "https://user:hid den@witness.example/",
        "user:hidden@witness.example",
        "https://witness.example/?token=hidden",
        "https://witness.example/?",
        "https://witness.example/ x",
        "https://witness.example/#x",
        "https://[::1",
        "https://witness.example/" + "x" * 3000,
    ],
)
def test_urls_that_are_none_are_refused(driver: str, url: str) -> None:
    with pytest.raises(Invalid) as caught:
        load_driver(driver)(Whereabouts(url), SECONDS)
    assert "hidden" not in caught.value.detail
