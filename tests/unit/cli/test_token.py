"""troth token: requests to a fake issuer, and tokens that are taken apart offline."""

from __future__ import annotations

import json
import stat
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.api import FakeApi
from tests.fakes.issuer import make_private_key
from tests.fakes.oauth import (
    API,
    ISSUER,
    ME,
    FakeAuthorizationServer,
    FakeCredential,
    make_answer,
)
from tests.fakes.views import make_status
from tests.unit.cli.conftest import Run
from troth.cli import token as module
from troth.cli.oauth import OwnClient, choose_svid, find_issuer
from troth.cli.options import Options
from troth.cli.terminal import Terminal
from troth.core.clock import VirtualClock
from troth.sdk.workload import FetchedSvid, NoIdentity, X509Update


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> FakeAuthorizationServer:
    fake = FakeAuthorizationServer(VirtualClock(datetime.now(UTC)))
    credential = FakeCredential()

    def open_client(terminal: Terminal, spiffe_id: str, *, jwt: bool) -> OwnClient:
        credential.tag = "" if jwt else "certificate"
        return OwnClient(fake.connect(), credential, clock=terminal.clock, spiffe_id=ME)

    monkeypatch.setattr(module, "open_client", open_client)
    return fake


@pytest.fixture
def held(tmp_path: Path, server: FakeAuthorizationServer) -> Path:
    path = tmp_path / "caller.token"
    path.write_text(server.issue() + "\n")
    return path


def test_a_token_is_printed_alone_and_what_it_permits_beside_it(server, run: Run) -> None:
    answer = run("token", "request", "--resource", API, "--scope", "read", "--scope", "write")
    assert answer.exit_code == 0, answer.output
    assert answer.stdout.count(".") == 2
    assert "It permits read, write and ends in" in answer.stderr
    assert server.forms[-1]["scope"] == "read write"


def test_a_token_whose_key_is_gone_is_called_useless(server, run: Run, held) -> None:
    for words in (["request"], ["exchange", str(held)]):
        answer = run("token", *words, "--resource", API, "--json")
        assert "Nobody can show this token" in answer.stderr
        assert "--jwt" in answer.stderr
        assert "`troth run --resource URI -- CMD`" in answer.stderr
        free = run("token", *words, "--resource", API, "--jwt")
        assert "whoever holds it may show it, and ends in" in free.stderr
        assert "Nobody" not in free.stderr


def test_with_json_it_is_the_standard_s_answer(server, run: Run) -> None:
    answer = run("token", "request", "--resource", API, "--json")
    value = json.loads(answer.stdout)
    assert value["token_type"] == "Bearer"
    assert value["access_token"].count(".") == 2
    assert value["expires_in"] == 600


def test_a_token_in_a_file_is_for_its_owner_and_stands_nowhere_else(
    server, run: Run, tmp_path: Path
) -> None:
    path = tmp_path / "token"
    answer = run("token", "request", "--resource", API, "--write", str(path))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    text = path.read_text()
    assert text.count(".") == 2
    assert text not in answer.output
    value = json.loads(
        run("token", "request", "--resource", API, "--write", str(path), "--json").stdout
    )
    assert value["file"] == str(path)
    assert "access_token" not in value


def test_a_refusal_is_told_in_the_standard_s_words(server, run: Run) -> None:
    refusal = {"error": "invalid_target", "error_description": "Unknown."}
    server.answers = [make_answer(400, refusal)]
    answer = run("token", "request", "--resource", API)
    assert answer.exit_code == 1
    assert "error: invalid_target: Unknown." in answer.stderr
    server.answers = [make_answer(400, refusal)]
    value = json.loads(run("token", "request", "--resource", API, "--json").stdout)
    assert (value["code"], value["error"]) == ("permission_denied", "invalid_target")


def test_an_exchange_takes_both_tokens_from_files_or_the_input(server, run, held) -> None:
    answer = run("token", "exchange", str(held), "--actor", "-", "--resource", API, input="mine\n")
    assert answer.exit_code == 0, answer.output
    form = server.forms[-1]
    assert form["subject_token"] == held.read_text().strip()
    assert form["actor_token"] == "mine"
    assert run("token", "exchange", "-", "--actor", "-").exit_code == 2


def test_introspection_s_exit_code_says_whether_the_token_is_good(server, run, held) -> None:
    answer = run("token", "introspect", str(held), "--json")
    assert (answer.exit_code, json.loads(answer.stdout)) == (0, {"active": True, "sub": ME})
    assert run("token", "revoke", "--token", "-", input=held.read_text()).exit_code == 0
    answer = run("token", "introspect", str(held), "--json")
    assert (answer.exit_code, json.loads(answer.stdout)) == (1, {"active": False})
    assert f"not good, or not meant for {ME};" in answer.stderr
    assert "`troth journal tail --type token.rejected`" in answer.stderr


def test_an_answer_s_objects_and_times_are_told_line_by_line(server, run, held) -> None:
    server.answers = [
        make_answer(
            200,
            {
                "active": True,
                "cnf": {"x5t#S256": "abc"},
                "cache_until": 1_800_000_000,
                "act": {"sub": ME, "act": {"sub": "inner\x1b"}},
                "authorization_details": [{"type": "troth_action"}],
            },
        )
    ]
    lines = run("token", "introspect", str(held)).stdout.splitlines()
    shown = {name: " ".join(rest) for name, *rest in (line.split() for line in lines)}
    assert shown["cnf.x5t#S256"] == "abc"
    assert shown["cache_until"].startswith("2027-01-15 08:00:00 UTC (in")
    assert shown["act.sub"] == ME
    assert shown["act.act.sub"] == "inner\\u{1b}"
    assert shown["authorization_details"] == '{"type": "troth_action"}'


@pytest.mark.parametrize("command", ["exchange", "introspect", "revoke", "decode"])
def test_a_token_never_stands_in_a_command(server, run, command: str) -> None:
    option = ["--token"] if command == "revoke" else []
    answer = run("token", command, *option, server.issue())
    assert answer.exit_code == 2
    assert "process" in answer.stderr or "Every user" in answer.stderr.replace("\n", " ")
    assert run("token", command, *option, "-", input="").exit_code == 1


def test_an_endpoint_that_the_issuer_doesn_t_have_is_told(server, run, held) -> None:
    del server.metadata["revocation_endpoint"]
    answer = run("token", "revoke", "--token", str(held))
    assert answer.exit_code == 1
    assert "offers no revocation_endpoint" in answer.stderr


# Which issuer


def test_the_issuer_is_the_url_or_the_local_server_s_origin(api: FakeApi, data: Path) -> None:
    api.answers["status.show"] = make_status(origin="https://local:8443")
    assert find_issuer(Terminal(Options(data_dir=data))) == "https://local:8443"
    named = Terminal(Options(data_dir=data, server_url=f"{ISSUER}/"))
    assert find_issuer(named) == ISSUER


def test_an_identity_that_is_not_there_is_told_with_those_that_are() -> None:
    svids = [FetchedSvid(name, "", (), b"", ()) for name in (ME, f"{ME}-2")]
    with pytest.raises(NoIdentity, match=f"for {ME}-3; it may be {ME}, {ME}-2."):
        choose_svid(X509Update(tuple(svids), (), ()), f"{ME}-3")
    with pytest.raises(NoIdentity, match="troth doctor"):
        choose_svid(X509Update((), (), ()), "")


def test_without_an_issuer_it_is_wrong_usage(run: Run) -> None:
    answer = run("token", "request", "--resource", API)
    assert answer.exit_code == 2
    assert "which server" in answer.stderr


# Offline


def write_keys(path: Path, *keys: Any) -> str:
    path.write_text(json.dumps({"keys": list(keys)}))
    return str(path)


def test_a_token_is_shown_and_called_unverified(server, run, held) -> None:
    answer = run("token", "decode", str(held))
    assert answer.exit_code == 0, answer.output
    assert "unverified" in answer.stdout
    assert "header typ" in answer.stdout
    assert "UTC (in 9 min" in answer.stdout
    assert "anybody could have written this" in answer.stderr
    value = json.loads(run("token", "decode", str(held), "--json").stdout)
    assert value["verified"] is False
    assert value["claims"]["sub"] == ME


def test_with_keys_it_is_verified(server, run, held, tmp_path: Path) -> None:
    unknown = {"kty": "oct", "k": "AA"}
    keys = write_keys(tmp_path / "keys", unknown, *server.published)
    answer = run("token", "decode", str(held), "--keys", keys, "--json")
    assert answer.exit_code == 0, answer.output
    assert json.loads(answer.stdout)["verified"] is True
    assert "anybody" not in answer.stderr


def test_a_wrong_signature_and_an_end_are_found_wanting(server, run, tmp_path: Path) -> None:
    path = tmp_path / "token"
    other = server.describe_key(make_private_key(99))
    path.write_text(server.issue())
    forged = write_keys(tmp_path / "keys", {**other, "kid": server.published[0]["kid"]})
    answer = run("token", "decode", str(path), "--keys", forged, "--json")
    value = json.loads(answer.stdout)
    assert (answer.exit_code, value["verified"]) == (1, False)
    assert "signature is wrong" in value["problem"]
    unnamed = write_keys(tmp_path / "keys", other)
    assert run("token", "decode", str(path), "--keys", unnamed).exit_code == 1
    path.write_text(server.issue(exp=1))
    keys = write_keys(tmp_path / "keys", *server.published)
    answer = run("token", "decode", str(path), "--keys", keys, "--json")
    value = json.loads(answer.stdout)
    assert (answer.exit_code, value["verified"]) == (1, True)
    assert "expired" in value["problem"]


@pytest.mark.parametrize("text", ["rubbish", "a.b", "a.b.c.d.e", "a.b.c", "ä"])
def test_what_is_no_token_is_told(server, run, text: str) -> None:
    answer = run("token", "decode", "-", input=text)
    assert answer.exit_code == 1
    assert answer.stderr.startswith("error: ")


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        ("Bearer abc", "without 'Bearer'"),
        ("troth_AQAB-_", "`troth token introspect FILE`"),
        ("a.b.c.d.e", "only whom it is for"),
    ],
)
def test_what_can_t_be_decoded_is_told_with_what_to_do(server, run, text: str, advice: str) -> None:
    assert advice in run("token", "decode", "-", input=text).stderr


def test_a_missing_file_and_a_missing_key_are_told_with_what_to_do(
    server, run, held, tmp_path: Path
) -> None:
    missing = str(tmp_path / "none")
    assert f"no file {missing}: name the one" in run("token", "decode", missing).stderr
    answer = run("token", "decode", str(held), "--keys", missing)
    assert f"no file {missing}: save in one" in answer.stderr
    other = write_keys(tmp_path / "keys", server.describe_key(make_private_key(99)))
    answer = run("token", "decode", str(held), "--keys", other)
    assert server.published[0]["kid"] in answer.stderr
    assert f"the jwks_uri of its issuer, '{ISSUER}'" in answer.stderr


@pytest.mark.parametrize("text", ["", "[", "7", '{"keys": 7}', '{"keys": []}', '{"kty": "oct"}'])
def test_keys_that_are_none_are_told(server, run, held, tmp_path: Path, text: str) -> None:
    path = tmp_path / "keys"
    path.write_text(text)
    answer = run("token", "decode", str(held), "--keys", str(path))
    assert answer.exit_code == 1
    assert answer.stderr.startswith("error: ")
