"""`troth client-secret`, and what doctor says of secrets that live."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.fakes.api import FakeApi
from tests.fakes.views import make_identity, make_status
from tests.unit.cli.conftest import Run
from troth.core.errors import Denied, NotFound
from troth.wire.api import client_secrets as wire
from troth.wire.api import identities, journal

NOW = datetime.now(UTC)
SECRET = "troth-secret.csec_1.AAAA"


def make_view(name: str = "billing", id: str = "csec_1", **changes: Any) -> wire.ClientSecretView:
    values: dict[str, Any] = {
        "id": id,
        "identity": name,
        "client_id": f"spiffe://example.org/{name}",
        "owner": "team-pay",
        "created_by": "uid:0",
        "created_at": NOW - timedelta(hours=1),
        "expires_at": NOW + timedelta(days=20, minutes=1),
        "instead": "spiffe_x509 or spiffe_jwt with its SVID from the agent",
    }
    return wire.ClientSecretView(**{**values, **changes})


def test_a_secret_stands_alone_on_standard_output(api: FakeApi, run: Run) -> None:
    api.answers["client_secret.create"] = wire.ClientSecretCreated(
        id="csec_1",
        client_id="spiffe://example.org/billing",
        secret=SECRET,
        expires_at=NOW + timedelta(days=14),
    )
    result = run("client-secret", "create", "billing", "--ttl", "14d")
    assert result.exit_code == 0, result.output
    assert result.stdout == f"{SECRET}\n"
    assert SECRET not in result.stderr
    assert "troth client-secret revoke csec_1" in result.stderr
    (request,) = api.named("client_secret.create")
    assert request == wire.CreateClientSecret(identity="billing", ttl=14 * 86_400)


def test_a_life_s_bound_is_told_as_people_write_it(run: Run) -> None:
    said = " ".join(
        run("client-secret", "create", "billing", "--ttl", "400d", "--json").stdout.split()
    )
    assert "'ttl' must be at most 7776000 seconds (90d)." in said


@pytest.mark.parametrize("ttl", ["91d", "5s", "soon"])
def test_a_life_that_is_too_long_or_none_is_wrong_usage(ttl: str, api: FakeApi, run: Run) -> None:
    assert run("client-secret", "create", "billing", "--ttl", ttl).exit_code == 2
    assert api.requests == []


def test_all_pages_are_listed(api: FakeApi, run: Run) -> None:
    def answer(request: wire.ListClientSecrets) -> wire.ClientSecretPage:
        if request.after is None:
            return wire.ClientSecretPage(items=[make_view()], next="csec_1")
        return wire.ClientSecretPage(items=[make_view("other", "csec_2")])

    api.answers["client_secret.ls"] = answer
    result = run("client-secret", "ls", "--json")
    assert [item["id"] for item in json.loads(result.stdout)["items"]] == ["csec_1", "csec_2"]
    shown = " ".join(run("client-secret", "ls", "billing").stdout.split())
    assert "csec_1" in shown
    assert "team-pay" in shown
    assert api.named("client_secret.ls")[-1].identity == "billing"


def test_none_is_said_so(api: FakeApi, run: Run) -> None:
    api.answers["client_secret.ls"] = wire.ClientSecretPage(items=[])
    assert "No client secret" in run("client-secret", "ls").stderr
    said = run("client-secret", "ls", "billing").stderr
    assert "`troth client-secret create billing`" in said


def test_one_is_revoked_with_a_reason(api: FakeApi, run: Run) -> None:
    api.answers["client_secret.revoke"] = make_view(revoked_at=NOW)
    assert run("client-secret", "revoke", "csec_1").exit_code == 2
    assert run("client-secret", "revoke", SECRET, "--reason", "x").exit_code == 2
    result = run("client-secret", "revoke", "csec_1", "--reason", "leaked")
    assert result.exit_code == 0, result.output
    assert "csec_1 of billing is over" in result.stdout
    assert "troth token revoke --identity billing" in result.stderr


@pytest.fixture
def healthy(api: FakeApi) -> FakeApi:
    api.answers = {
        "status.show": make_status(),
        "identity.ls": identities.IdentityPage(items=[make_identity()]),
        "instance.ls": identities.InstanceList(items=[]),
        "journal.ls": journal.JournalPage(items=[], head=0),
    }
    return api


def test_doctor_reports_each_secret_that_lives(healthy: FakeApi, run: Run) -> None:
    healthy.answers["client_secret.ls"] = wire.ClientSecretPage(items=[make_view()])
    result = run("doctor", "--no-agent", "--json")
    assert result.exit_code == 0, "it is a warning"
    found = [
        one for one in json.loads(result.stdout)["findings"] if one["subject"] == "client secret"
    ]
    (finding,) = found
    assert finding["level"] == "warning"
    for part in ("'billing'", "team-pay", "csec_1"):
        assert part in finding["words"]
    assert "spiffe_x509" in finding["remedy"]
    assert "troth client-secret revoke csec_1" in finding["remedy"]


def test_doctor_says_so_if_it_may_not_look(healthy: FakeApi, run: Run) -> None:
    healthy.answers["client_secret.ls"] = Denied("It may not.")
    assert "role auditor" in run("doctor", "--no-agent").stdout
    healthy.answers["client_secret.ls"] = NotFound("An earlier version has no such path.")
    assert "client secret" not in run("doctor", "--no-agent").stdout
