"""doctor: what is wrong, why a process gets nothing, and what to do about it."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest

from tests.fakes.api import FakeApi
from tests.fakes.views import make_entry, make_identity, make_status
from tests.unit.cli.conftest import Run
from troth.cli import doctor as doctor_module
from troth.cli import installation
from troth.cli.explanation import (
    Attestation,
    attest_process,
    compare_identities,
    explain_missing,
    find_node,
)
from troth.cli.installation import Finding, Level, check_data, check_reach, check_status
from troth.core.errors import Denied, Internal, NotFound, Unavailable
from troth.identity.selectors import Selector
from troth.wire.api import client_secrets, identities, journal
from troth.wire.api.status import AuthorityView

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
FINE = Finding(Level.OK, "agent", "it answers.")
PROVED = Attestation(
    pid=42,
    uid=1001,
    selectors=(Selector("unix:uid", "1001"), Selector("unix:path", "/usr/bin/pay")),
    notes=(),
)


@pytest.fixture
def healthy(api: FakeApi) -> FakeApi:
    api.answers = {
        "status.show": make_status(),
        "identity.ls": identities.IdentityPage(items=[make_identity()]),
        "instance.ls": identities.InstanceList(items=[]),
        "journal.ls": journal.JournalPage(items=[], head=0),
        "client_secret.ls": client_secrets.ClientSecretPage(items=[]),
    }
    return api


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(["sleep", "600"])
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def test_a_healthy_installation(healthy: FakeApi, run: Run) -> None:
    result = run("doctor", "--no-agent")
    assert result.exit_code == 0, result.output
    assert "✗" not in result.stdout
    value = json.loads(run("doctor", "--no-agent", "--json").stdout)
    assert value["ok"] is True
    assert {f["subject"] for f in value["findings"]} >= {"data", "server", "clock", "revocation"}


def test_without_anything_every_finding_says_what_to_do(run: Run) -> None:
    result = run("doctor", "--json")
    assert result.exit_code == 1
    findings = json.loads(result.stdout)["findings"]
    wrong = [f for f in findings if f["level"] == "wrong"]
    assert {f["subject"] for f in wrong} == {"agent", "server"}
    assert all("troth up" in f["remedy"] for f in wrong)


def test_refusals_of_late_are_listed(healthy: FakeApi, run: Run) -> None:
    body = {"pid": 77, "selectors": ["unix:uid:1002"], "reason": "unix:uid is 1002, not 1001"}
    mine = make_entry(2, type="workload.refused", body={"pid": os.getpid()})
    entry = make_entry(1, type="workload.refused", body=body)
    healthy.answers["journal.ls"] = lambda request: journal.JournalPage(
        items=[entry, mine] if request.after == 0 else [], head=2
    )
    shown = run("doctor", "--no-agent").stdout
    assert "Refused lately" in shown
    assert "unix:uid is 1002, not 1001" in shown
    assert str(os.getpid()) not in shown


def test_without_the_role_for_the_journal_it_goes_on(healthy: FakeApi, run: Run) -> None:
    healthy.answers["journal.ls"] = Denied("journal.ls needs one of the roles auditor.")
    result = run("doctor", "--no-agent")
    assert result.exit_code == 0
    assert "role auditor" in result.stdout


def test_weak_selectors_are_warned_about(healthy: FakeApi, run: Run) -> None:
    weak = make_identity("weak", selectors=[f"unix:sha256:{'0' * 64}"])
    healthy.answers["identity.ls"] = identities.IdentityPage(items=[weak])
    result = run("doctor", "--no-agent")
    assert result.exit_code == 0
    assert "weak rests on the executable alone" in result.stdout
    assert "unix:uid, systemd:unit or container:id" in result.stdout


def test_why_does_this_process_get_nothing(
    healthy: FakeApi, run: Run, sleeper: subprocess.Popen[bytes]
) -> None:
    uid = os.geteuid()
    far = make_identity("far", selectors=["unix:uid:4242", "unix:path:/usr/bin/other"])
    near = make_identity("near", selectors=[f"unix:uid:{uid}", "unix:path:/usr/bin/other"])
    healthy.answers["identity.ls"] = identities.IdentityPage(items=[far, near])
    result = run("doctor", "--no-agent", "--pid", str(sleeper.pid))
    assert result.exit_code == 1
    assert "it gets nothing; nearest is near: wants unix:path:/usr/bin/other, it is /" in (
        result.stdout
    )
    assert f"unix:uid:{uid}" in result.stdout
    assert result.stdout.index("near ") < result.stdout.index("far ")
    value = json.loads(run("doctor", "--no-agent", "--pid", str(sleeper.pid), "--json").stdout)
    assert value["attestation"]["pid"] == sleeper.pid
    assert [c["name"] for c in value["candidates"]] == ["near", "far"]
    assert value["candidates"][0]["missing"] == ["unix:path:/usr/bin/other"]


def test_a_process_that_obtains_its_identity(
    healthy: FakeApi, run: Run, sleeper: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    item = make_identity(selectors=[f"unix:uid:{os.geteuid()}"])
    healthy.answers["identity.ls"] = identities.IdentityPage(items=[item])
    monkeypatch.setattr(doctor_module, "check_agent", lambda _: [FINE])
    result = run("doctor", "--pid", str(sleeper.pid))
    assert result.exit_code == 0, result.output
    assert "it obtains spiffe://example.org/payments-api" in result.stdout


def test_it_obtains_nothing_as_long_as_no_agent_answers(
    healthy: FakeApi, run: Run, sleeper: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    item = make_identity(selectors=[f"unix:uid:{os.geteuid()}"])
    healthy.answers["identity.ls"] = identities.IdentityPage(items=[item])
    shown = run("doctor", "--pid", str(sleeper.pid)).stdout
    assert "! pid" in shown
    assert "it would obtain spiffe://example.org/payments-api, but no agent here" in shown
    assert "no agent was asked" in run("doctor", "--no-agent", "--pid", str(sleeper.pid)).stdout
    monkeypatch.setattr(doctor_module, "check_agent", lambda _: [FINE])
    monkeypatch.setattr(
        doctor_module, "attest_process", lambda pid: replace(attest_process(pid), partial=True)
    )
    shown = run("doctor", "--pid", str(sleeper.pid)).stdout
    assert "it would obtain" in shown
    assert "as root" in shown


@pytest.mark.parametrize("how", ["replaced", "deleted"])
def test_a_program_whose_file_was_taken_away_must_be_restarted(tmp_path: Path, how: str) -> None:
    program = tmp_path / "workload"
    shutil.copy(shutil.which("sleep") or "/bin/sleep", program)
    process = subprocess.Popen([program, "600"])
    try:
        program.unlink()
        if how == "replaced":
            program.write_bytes(b"the next version")
        (note,) = attest_process(process.pid).notes
    finally:
        process.kill()
        process.wait()
    assert f"{program}: its file was {how} since it started" in note
    assert "restart" in note
    assert "as root" not in note


def test_the_node_s_name_is_the_one_it_joined_with(data: Path) -> None:
    assert find_node(data, "local") == "local"
    (data / "agent").mkdir(mode=0o700)
    held = data / "agent" / "node.json"
    held.write_text('{"spiffe_id": "spiffe://example.org/troth/node/web-1", "key": "x"}')
    assert find_node(data, "local") == "web-1"
    for broken in ("", "[]", '{"spiffe_id": "no"}', '{"spiffe_id": "spiffe://example.org/web"}'):
        held.write_text(broken)
        assert find_node(data, "local") == "local"
    for noise in (b'{"spiffe_id": "\x80"}', b'{"x":' + b"[" * 60_000):
        held.write_bytes(noise)
        assert find_node(data, "local") == "local"


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        (Internal("It failed."), "log has the reason"),
        (Denied("Not you."), "as the server's user"),
        (Unavailable("Not ready."), "Wait a moment"),
    ],
)
def test_the_advice_fits_the_error(
    healthy: FakeApi, run: Run, error: Exception, advice: str
) -> None:
    healthy.answers["status.show"] = error
    found = json.loads(run("doctor", "--no-agent", "--json").stdout)["findings"]
    (remedy,) = (f["remedy"] for f in found if f["subject"] == "server")
    assert advice in remedy
    assert ("server's user" in remedy) == isinstance(error, Denied)


def test_a_locked_copy_is_found(
    healthy: FakeApi, run: Run, sleeper: subprocess.Popen[bytes]
) -> None:
    item = make_identity(selectors=[f"unix:uid:{os.geteuid()}"])
    healthy.answers["identity.ls"] = identities.IdentityPage(items=[item])
    locked = identities.InstanceView(
        id="ins_7",
        identity=item.name,
        node="local",
        pid=sleeper.pid,
        evidence=[],
        locked=True,
        locked_reason="odd traffic",
        first_seen=datetime.now(UTC),
        last_seen=datetime.now(UTC),
    )
    healthy.answers["instance.ls"] = identities.InstanceList(items=[locked])
    result = run("doctor", "--no-agent", "--pid", str(sleeper.pid))
    assert result.exit_code == 1
    assert "ins_7, which is locked (odd traffic)" in result.stdout
    assert "troth instance unlock ins_7" in result.stdout
    for changes in ({"node": "web-1"}, {"first_seen": NOW - timedelta(days=1)}):
        other = msgspec.structs.replace(locked, **changes)
        healthy.answers["instance.ls"] = identities.InstanceList(items=[other])
        result = run("doctor", "--no-agent", "--pid", str(sleeper.pid))
        assert "which is locked" not in result.stdout


def test_no_identities_at_all(healthy: FakeApi, run: Run, sleeper: subprocess.Popen[bytes]) -> None:
    healthy.answers["identity.ls"] = identities.IdentityPage(items=[])
    result = run("doctor", "--no-agent", "--pid", str(sleeper.pid))
    assert result.exit_code == 1
    assert "there are no identities" in result.stdout


def test_a_process_that_is_not_there(healthy: FakeApi, run: Run) -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    result = run("doctor", "--no-agent", "--pid", str(gone.pid))
    assert result.exit_code == 1
    assert f"There is no process {gone.pid}" in result.stdout
    with pytest.raises(NotFound):
        attest_process(gone.pid)


def test_without_a_server_the_process_is_attested_all_the_same(
    run: Run, sleeper: subprocess.Popen[bytes]
) -> None:
    result = run("doctor", "--no-agent", "--pid", str(sleeper.pid), "--json")
    assert result.exit_code == 1
    assert f"unix:uid:{os.geteuid()}" in json.loads(result.stdout)["attestation"]["selectors"]


@pytest.mark.parametrize(
    ("changes", "obstacle", "remedy"),
    [
        ({"state": "proposed"}, "it is proposed", "troth identity activate near"),
        (
            {"state": "suspended", "state_reason": "work"},
            "it is suspended (work)",
            "troth identity resume near",
        ),
        ({"state": "quarantined"}, "it is quarantined", "troth identity release near"),
        ({"nodes": ["web-1"]}, "it is for web-1, this node is local", "add local to its 'nodes'"),
        ({"expires_at": NOW - timedelta(days=1)}, "it expired 1 d ago", "later 'expires'"),
        ({"selectors": []}, "it has no selectors", "give it selectors"),
    ],
)
def test_what_stands_between_a_process_and_its_identity(
    changes: dict[str, object], obstacle: str, remedy: str
) -> None:
    item = make_identity("near", **{"selectors": ["unix:uid:1001"], **changes})
    [found] = compare_identities([item], PROVED, "local", NOW)
    assert not found.obtains
    assert found.obstacles == (obstacle,)
    assert any(remedy in one for one in found.remedies)


def test_the_nearest_comes_first_and_the_retired_not_at_all() -> None:
    path = "unix:path:/usr/bin/pay"
    items = [
        make_identity("z-none", selectors=["unix:uid:5", "unix:gid:5"]),
        make_identity("retired", selectors=["unix:uid:1001"], state="retired"),
        make_identity("half", selectors=["unix:uid:1001", "unix:gid:5"]),
        make_identity("elsewhere", selectors=["unix:uid:1001"], nodes=["web-1"]),
        make_identity("fits", selectors=["unix:uid:1001", path], nodes=["*"]),
        make_identity("newer", selectors=["unix:uid:1001", "tpm:ek:ab:cd"]),
    ]
    found = compare_identities(items, PROVED, "local", NOW)
    assert [c.name for c in found] == ["fits", "elsewhere", "half", "newer", "z-none"]
    assert [c.obtains for c in found] == [True, False, False, False, False]
    assert str(found[3].match.missing[0]) == "tpm:ek:ab:cd"


def test_what_demands_nothing_is_the_farthest() -> None:
    bare = make_identity("bare", selectors=[])
    near = make_identity("near", selectors=["unix:uid:1001", "unix:path:/usr/bin/x"])
    far = make_identity("zfar", selectors=["unix:uid:1", "unix:path:/usr/bin/x"])
    found = compare_identities([bare, near, far], PROVED, "local", NOW)
    assert [one.name for one in found] == ["near", "zfar", "bare"]


def test_a_missing_selector_is_told_with_what_is_there() -> None:
    wanted = Selector("unix:uid", "5")
    assert explain_missing(wanted, PROVED.selectors) == "wants unix:uid:5, it is 1001"
    other = Selector("container:id", "a" * 64)
    assert explain_missing(other, PROVED.selectors).endswith("which was not proved")


def test_private_files_must_be_private(data: Path) -> None:
    keys = data / "keys"
    keys.mkdir(mode=0o700)
    for name, mode in (("kek", 0o640), ("ca.pem", 0o644)):
        (keys / name).touch()
        (keys / name).chmod(mode)
    for name, mode in (("ca.pem", 0o644), ("troth.db", 0o644), ("troth.toml", 0o664)):
        (data / name).touch()
        (data / name).chmod(mode)
    findings = list(check_data(data))
    assert {f.words.split()[0] for f in findings} == {
        str(keys / "kek"),
        str(keys / "ca.pem"),
        str(data / "troth.db"),
        str(data / "troth.toml"),
    }
    assert all(f.level is Level.WRONG for f in findings)
    assert any(f.remedy.startswith(f"chmod 0600 {data}/troth.db") for f in findings)
    keys.chmod(0o750)
    data.chmod(0o777)
    names = {f.words.split()[0] for f in check_data(data)}
    assert {str(keys), str(data)} <= names


def test_a_socket_that_nobody_serves(data: Path, run: Run) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(data / "admin.sock"))
    (data / "agent.sock").touch(mode=0o600)
    shown = run("doctor").stdout
    assert "nothing listens on the server's admin socket (Connection refused)" in shown
    assert "agent.sock should be the agent's socket, but it is no socket" in shown


def test_a_directory_that_keeps_other_users_out(tmp_path: Path) -> None:
    inner = tmp_path / "closed" / "inner"
    inner.mkdir(parents=True)
    (tmp_path / "closed").chmod(0o700)
    (inner / "agent.sock").touch()
    (inner / "agent.sock").chmod(0o777)
    [finding] = check_reach(inner / "agent.sock")
    assert finding.level is Level.WARNING
    assert "chmod o+x" in finding.remedy


@pytest.mark.parametrize(
    ("changes", "subject", "words"),
    [
        ({"ready": False, "findings": ["No CRL."]}, "server", "runs and is not ready"),
        ({"crl_next_update": NOW - timedelta(hours=2)}, "revocation", "has ended"),
        ({"started_at": NOW + timedelta(hours=1)}, "clock", "behind"),
        (
            {
                "authorities": [
                    AuthorityView(
                        id="aut_1",
                        use="x509-svid",
                        state="active",
                        not_before=NOW - timedelta(days=2),
                        not_after=NOW - timedelta(days=1),
                    )
                ]
            },
            "server",
            "has expired",
        ),
    ],
)
def test_what_the_server_says_is_judged(
    changes: dict[str, object], subject: str, words: str
) -> None:
    fine = {"started_at": NOW - timedelta(hours=1), "crl_next_update": NOW + timedelta(days=1)}
    findings = list(check_status(make_status(**{**fine, **changes}), NOW))
    [wrong] = [f for f in findings if f.level is Level.WRONG]
    assert wrong.subject == subject
    assert words in wrong.words
    assert wrong.remedy
    assert all(f.level is Level.OK for f in check_status(make_status(**fine), NOW))


def test_a_clock_that_starts_in_the_past() -> None:
    early = datetime(1970, 1, 2, tzinfo=UTC)
    view = make_status(started_at=early, crl_next_update=early + timedelta(days=1))
    assert any(f.subject == "clock" and f.level is Level.WRONG for f in check_status(view, early))


def test_a_huge_directory_is_looked_at_in_part(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installation, "MAX_LOOKED_AT", 3)
    for number in range(10):
        (data / f"{number}").touch(mode=0o644)
        (data / f"{number}").chmod(0o644)
    assert len(list(check_data(data))) == 3
