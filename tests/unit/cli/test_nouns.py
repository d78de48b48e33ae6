"""The commands of the nouns: what they send, and how they show what comes back."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
import typer
import typer.main

from tests.fakes.api import FakeApi
from tests.fakes.views import make_entry, make_identity, make_status
from tests.unit.cli.conftest import Run
from troth.cli import following
from troth.cli import run as run_module
from troth.cli import token as token_module
from troth.core.errors import NotFound, Refused
from troth.wire.api import certificates, identities, journal, nodes, tokens


def test_ps_hides_the_retired(api: FakeApi, run: Run) -> None:
    gone = make_identity("gone", state="retired")
    api.answers["identity.ls"] = identities.IdentityPage(items=[make_identity(), gone])
    shown = run("ps").stdout
    assert "payments-api" in shown
    assert "in 30 d" in shown
    assert re.search(r"\b3\d s ago", shown), "seen 30 s ago, and the commands take a while"
    assert "gone" not in shown
    assert "gone" in run("ps", "--all").stdout
    assert [i["name"] for i in json.loads(run("ps", "--json").stdout)["items"]] == ["payments-api"]


@pytest.mark.parametrize(
    ("detail", "advice"),
    [
        ("There is no resource 'vault'.", "`troth resource ls`"),
        ("There is no identity with the id 'idn_1'.", "`troth identity ls`"),
        ("There is no instance with the id 'ins_1'.", "`troth instance ls NAME`"),
        ("There is no certificate with the serial '0a'.", "`troth certificate ls NAME`"),
        ("There is no node named 'web-9'.", "`troth node ls`"),
        ("There is no signing authority with the id 'aut_1'.", "`troth authority ls`"),
        ("There is nothing at this path.", "of the server's version"),
        ("There is no client secret with the id 'x'; `troth client-secret ls` lists them.", ""),
    ],
)
def test_what_is_not_there_is_told_with_what_is(
    api: FakeApi, run: Run, detail: str, advice: str
) -> None:
    api.answers["identity.show"] = NotFound(detail)
    said = run("identity", "show", "x").stderr
    assert said.startswith(f"error: {detail}")
    assert advice in said
    assert len(said.splitlines()) == (2 if advice else 1)
    assert "troth ps" not in said


@pytest.mark.parametrize("app", [run_module.app, token_module.app])
def test_help_is_wrapped_to_the_terminal_not_to_the_source(app: typer.Typer) -> None:
    for command in typer.main.get_group(app).commands.values():
        paragraphs = (command.help or "").split("\n\n")
        assert not [part for part in paragraphs if not part or "\n" in part], command.name


def test_lists_are_read_to_the_last_page(api: FakeApi, run: Run) -> None:
    names = [f"id-{number:04}" for number in range(2500)]

    def page(request: identities.ListIdentities) -> identities.IdentityPage:
        start = names.index(request.after) + 1 if request.after else 0
        part = names[start : start + request.limit]
        items = [make_identity(name) for name in part]
        more = start + len(part) < len(names)
        return identities.IdentityPage(items=items, next=part[-1] if more else None)

    api.answers["identity.ls"] = page
    assert len(json.loads(run("ps", "--json").stdout)["items"]) == 2500


def test_filters_reach_the_server(api: FakeApi, run: Run) -> None:
    api.answers["identity.ls"] = identities.IdentityPage(items=[])
    run("identity", "ls", "pay", "--state", "active", "--kind", "job")
    [request] = api.named("identity.ls")
    assert (request.text, request.state, request.kind) == ("pay", "active", "job")


def test_show_tells_everything_in_words(api: FakeApi, run: Run) -> None:
    api.answers["identity.show"] = make_identity(
        state="suspended",
        state_reason="maintenance",
        selectors=["unix:uid:1001", "unix:path:/bin/a"],
    )
    shown = run("identity", "show", "payments-api").stdout
    assert "suspended (maintenance)" in shown
    assert "selectors unix:uid:1001" in " ".join(shown.split())
    assert "unix:path:/bin/a" in shown
    assert "tier=1" in shown
    assert "1 h" in shown
    assert "by manifests" in shown


def test_register_sends_what_was_given(api: FakeApi, run: Run) -> None:
    api.answers["identity.register"] = make_identity(state="proposed")
    words = (
        "identity register a --owner o --purpose p --kind job --selector unix:uid:1 "
        "--selector unix:gid:2 --node n1 --label a=b=c --label d= --dns-name a.example "
        "--environment prod --path /x/a --hint h --x509-ttl 2h --jwt-ttl 90s --expires 2027-06-30"
    )
    result = run(*words.split())
    assert result.exit_code == 0, result.output
    assert "troth identity activate payments-api" in result.stderr
    [request] = api.named("identity.register")
    assert request == identities.RegisterIdentity(
        name="a",
        owner="o",
        purpose="p",
        kind="job",
        selectors=["unix:uid:1", "unix:gid:2"],
        nodes=["n1"],
        labels={"a": "b=c", "d": ""},
        dns_names=["a.example"],
        environment="prod",
        path="/x/a",
        hint="h",
        x509_ttl=7200,
        jwt_ttl=90,
        expires_at=datetime(2027, 6, 30, tzinfo=UTC),
    )


@pytest.mark.parametrize(
    "verb", ["activate", "suspend", "resume", "quarantine", "release", "retire"]
)
def test_a_move_needs_a_reason_and_sends_it(verb: str, api: FakeApi, run: Run) -> None:
    api.answers[f"identity.{verb}"] = make_identity(state="active")
    without = run("identity", verb, "a", "--reason", " ")
    assert without.exit_code == 2
    assert "--reason" in without.stderr
    assert f"why do you {verb} it?" in without.stderr
    assert run("identity", verb, "a", "--reason", "incident 42").exit_code == 0
    assert api.requests == [
        (f"identity.{verb}", identities.MoveIdentity(name="a", reason="incident 42"))
    ]


def test_what_is_still_being_revoked_is_told(api: FakeApi, run: Run) -> None:
    view = make_identity(state="quarantined", revoking=True)
    api.answers |= {"identity.quarantine": view, "identity.show": view}
    result = run("identity", "quarantine", "a", "--reason", "incident 42")
    assert "troth identity show" in result.stderr
    assert "being revoked" in run("identity", "show", "a").stdout


def test_an_illegal_move_is_refused_with_what_is_possible(api: FakeApi, run: Run) -> None:
    api.answers["identity.resume"] = Refused("Can't resume 'a': it is active; possible now: …")
    result = run("identity", "resume", "a", "--reason", "r")
    assert result.exit_code == 1
    assert "possible now" in result.stderr


def test_instances(api: FakeApi, run: Run) -> None:
    now = datetime.now(UTC)
    view = identities.InstanceView(
        id="ins_1",
        identity="a",
        node="local",
        pid=4242,
        evidence=["unix:uid:1001"],
        locked=True,
        locked_reason="odd",
        first_seen=now,
        last_seen=now - timedelta(seconds=30),
    )
    api.answers["instance.ls"] = identities.InstanceList(items=[view])
    api.answers["instance.lock"] = view
    shown = run("instance", "ls", "a").stdout
    assert "locked" in shown
    assert "4242" in shown
    result = run("instance", "lock", "ins_1", "--reason", "odd")
    assert "ins_1 of a is locked" in result.stdout
    assert "troth instance unlock ins_1" in result.stderr
    assert api.named("instance.lock") == [identities.MoveInstance(id="ins_1", reason="odd")]
    assert run("instance", "unlock", "ins_1").exit_code == 2


@pytest.mark.parametrize("serial", ["5F:3C", "0x5f3c", "5f3c", "0" * 36 + "5f3c"])
def test_a_serial_is_read_as_people_write_it(serial: str, api: FakeApi, run: Run) -> None:
    now = datetime.now(UTC)
    api.answers["certificate.revoke"] = certificates.CertificateView(
        serial="5f3c", spiffe_id="spiffe://a/b", state="revoked", not_before=now, not_after=now
    )
    result = run("certificate", "revoke", serial, "--reason", "copied")
    assert result.exit_code == 0, result.output
    [request] = api.named("certificate.revoke")
    assert request.serial == "5f3c".zfill(40)


def test_a_join_token_stands_alone_on_standard_output(api: FakeApi, run: Run) -> None:
    expires = datetime.now(UTC) + timedelta(minutes=10, seconds=1)
    api.answers["token.join"] = nodes.JoinTokenCreated(
        token="troth-join.x.secret", node="web-1", expires_at=expires
    )
    api.answers["status.show"] = make_status(origin="https://troth.example.org:8443")
    result = run("token", "join", "--node", "web-1", "--ttl", "10m")
    assert result.stdout == "troth-join.x.secret\n"
    assert "secret" not in result.stderr
    assert "--join-token @join-token" in result.stderr
    assert "troth agent --server https://troth.example.org:8443 " in result.stderr
    assert api.named("token.join") == [nodes.CreateJoinToken(node="web-1", ttl=600)]


def test_top_once(api: FakeApi, run: Run) -> None:
    api.answers["status.show"] = make_status(findings=["The authority ends soon."])
    api.answers["identity.ls"] = identities.IdentityPage(items=[make_identity()])
    shown = run("top", "--once").stdout
    assert "example.org is ready" in shown
    assert "! The authority ends soon." in shown
    assert "payments-api" in shown
    [line] = run("top", "--once", "--json").stdout.splitlines()
    value = json.loads(line)
    assert value["status"]["trust_domain"] == "example.org"
    assert value["identities"][0]["name"] == "payments-api"


def _answer_journal(api: FakeApi, count: int) -> None:
    entries = [make_entry(number) for number in range(1, count + 1)]

    def page(request: journal.ListJournal) -> journal.JournalPage:
        fit = [e for e in entries if e.position > request.after]
        fit = [e for e in fit if e.type.startswith(request.type or "")]
        return journal.JournalPage(items=fit[: request.limit], head=count)

    api.answers["journal.ls"] = page


def test_tail_shows_the_last_events(api: FakeApi, run: Run) -> None:
    _answer_journal(api, 2500)
    lines = run("journal", "tail").stdout.splitlines()
    assert len(lines) == 20
    assert " ".join(lines[-1].split()) == (
        "2026-11-21 12:00:40 2500 identity.registered spiffe://example.org/payments-api "
        "by uid:0: state active"
    )
    assert len(run("journal", "tail", "-n", "3", "--type", "identity.").stdout.splitlines()) == 3


def test_tail_after_a_position_shows_all_that_follows(api: FakeApi, run: Run) -> None:
    _answer_journal(api, 2500)
    lines = run("journal", "tail", "--after", "0", "--json").stdout.splitlines()
    assert [json.loads(line)["position"] for line in lines] == list(range(1, 2501))


def test_follow_goes_on_where_the_list_ended_and_over_a_restart(
    api: FakeApi, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    _answer_journal(api, 2)
    monkeypatch.setattr(following, "RETRY_SECONDS", 0.0)
    monkeypatch.setattr(following, "PATIENCE", 1)
    other = make_entry(4, subject="other")
    streams = iter([[_line(make_entry(3)), _line(nodes.Heartbeat(epoch=3))], [_line(other)]])
    afters: list[int] = []
    serve = api.answer

    def answer(name: str, request: Any) -> Any:
        if name != "journal.tail":
            return serve(name, request)
        afters.append(request.after)
        raise Refused("Enough.")

    monkeypatch.setattr(api, "answer", answer)
    api.streams = _OneByOne(streams, api)
    subject = "spiffe://example.org/payments-api"
    result = run("journal", "tail", "--follow", "--json", "--subject", subject)
    assert result.exit_code == 1
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert [line.get("position") for line in lines] == [1, 2, 3, None]
    assert lines[-1]["message"] == "end"
    assert lines[-1]["detail"] == "Enough."
    assert [request.after for request in api.named("journal.tail")] == [2, 3, 4]
    assert "from position 3" in result.stderr


class _OneByOne(dict):
    """Streams that are served once each, then none."""

    def __init__(self, streams: Any, api: FakeApi) -> None:
        super().__init__()
        self._streams = streams
        self._next = next(streams, None)

    def __contains__(self, name: object) -> bool:
        return self._next is not None

    def __getitem__(self, name: str) -> Any:
        served, self._next = self._next, next(self._streams, None)
        return served


def _line(value: object) -> bytes:
    return msgspec.json.encode(value) + b"\n"


def test_token_revoke_names_a_token_an_identity_or_a_copy(api: FakeApi, run: Run) -> None:
    end = datetime(2026, 1, 1, tzinfo=UTC)
    name = "spiffe://example.org/billing"
    api.answers["token.revoke"] = lambda request: tokens.TokensRevoked(
        expires_at=end,
        jti=request.jti,
        spiffe_id=name if request.identity else None,
        instance=request.instance,
    )
    one = run("token", "revoke", "tok_0a1b", "--reason", "leaked")
    assert one.stdout == "token tok_0a1b is revoked\n"
    every = run("token", "revoke", "--identity", "billing", "--reason", "stolen")
    assert every.stdout == f"all tokens of {name} ended\n"
    assert "quarantine" in every.stderr
    copy = run("token", "revoke", "--instance", "ins_1f", "--reason", "odd")
    assert copy.stdout == "all tokens of ins_1f ended\n"
    assert "instance lock" in copy.stderr
    asked = [(r.jti, r.identity, r.instance, r.reason) for r in api.named("token.revoke")]
    assert asked == [
        ("tok_0a1b", None, None, "leaked"),
        (None, "billing", None, "stolen"),
        (None, None, "ins_1f", "odd"),
    ]
    both = ["--identity", "billing", "--instance", "ins_1f"]
    for words in ([], ["tok_0a1b", "--identity", "billing"], both):
        assert run("token", "revoke", *words, "--reason", "x").exit_code == 2
    assert run("token", "revoke", "tok_0a1b").exit_code == 2
