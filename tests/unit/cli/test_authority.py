"""`troth authority`: what it sends, and how it shows what comes back."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.fakes.api import FakeApi
from tests.unit.cli.conftest import Run
from troth.core.errors import Refused
from troth.wire.api import authorities


def make_authority(state: str = "active", **changes: Any) -> authorities.SigningAuthority:
    now = datetime.now(UTC)
    values: dict[str, Any] = {
        "id": "aut_1",
        "use": "x509-svid",
        "state": state,
        "key_id": "ab" * 20,
        "created_at": now,
        "not_before": now,
        "not_after": now + timedelta(days=365),
    }
    return authorities.SigningAuthority(**(values | changes))


def test_ls_shows_who_depends_on_each(api: FakeApi, run: Run) -> None:
    retired = make_authority("retired", id="aut_0", holders=7)
    api.answers["authority.ls"] = authorities.AuthorityList(items=[retired, make_authority()])
    shown = run("authority", "ls").stdout
    assert "aut_0" in shown
    assert "retired" in shown
    assert " 7" in shown
    listed = json.loads(run("authority", "ls", "--json").stdout)["items"]
    assert [item["holders"] for item in listed] == [7, None]


def test_prepare_says_what_comes_next(api: FakeApi, run: Run) -> None:
    ready = datetime.now(UTC) + timedelta(minutes=10)
    api.answers["authority.prepare"] = make_authority("prepared", ready_at=ready)
    result = run("authority", "prepare", "x509-svid", "--reason", "drill")
    assert result.exit_code == 0, result.output
    assert "troth authority activate aut_1" in result.stderr
    [request] = api.named("authority.prepare")
    assert request == authorities.PrepareAuthority(use="x509-svid", reason="drill")
    assert run("authority", "prepare", "tls", "--reason", "drill").exit_code == 2


@pytest.mark.parametrize("verb", ["activate", "revoke"])
def test_force_is_sent_only_when_given(verb: str, api: FakeApi, run: Run) -> None:
    api.answers[f"authority.{verb}"] = make_authority()
    run("authority", verb, "aut_1", "--reason", "drill")
    run("authority", verb, "aut_1", "--reason", "drill", "--force")
    assert [request.force for request in api.named(f"authority.{verb}")] == [False, True]


@pytest.mark.parametrize("words", ["prepare x509-svid", "activate a", "taint a", "revoke a"])
def test_a_reason_is_required(words: str, api: FakeApi, run: Run) -> None:
    result = run("authority", *words.split())
    assert result.exit_code == 2
    assert "--reason" in result.stderr
    assert not api.requests


def test_a_refusal_is_shown(api: FakeApi, run: Run) -> None:
    api.answers["authority.taint"] = Refused("Authority aut_1 signs now: prepare its successor.")
    result = run("authority", "taint", "aut_1", "--reason", "r")
    assert result.exit_code == 1
    assert "prepare its successor" in result.stderr
