"""`troth top` and `troth ps`: small however many identities there are."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime, timedelta

import msgspec
import pytest

from tests.fakes.api import FakeApi
from tests.fakes.views import make_identity, make_status
from tests.unit.cli.conftest import Run
from troth.cli.rates import compare_looks, find_quantile
from troth.core.errors import Unavailable
from troth.wire.api import identities
from troth.wire.api.status import OperationUse, StatusView

MANY = 10_000


def answer_many(api: FakeApi) -> None:
    """An installation of many identities, with a server that pages."""
    names = [f"id-{number:05}" for number in range(MANY)]

    def page(request: identities.ListIdentities) -> identities.IdentityPage:
        start = names.index(request.after) + 1 if request.after else 0
        part = names[start : start + request.limit]
        more = start + len(part) < len(names)
        items = [make_identity(name) for name in part]
        return identities.IdentityPage(items=items, next=part[-1] if more else None)

    api.answers["identity.ls"] = page
    api.answers["status.show"] = make_status(identities={"active": MANY, "retired": 7})


def make_use(name: str, calls: int, **more: int) -> OperationUse:
    values = {"refused": 0, "failed": 0} | more
    return OperationUse(name=name, calls=calls, buckets=[calls // 2, calls], **values)


def look_of(*uses: OperationUse) -> StatusView:
    view = make_status(operations=list(uses), bounds=[0.01, 0.1])
    return msgspec.structs.replace(view, started_at=datetime(2026, 1, 1, tzinfo=UTC))


def test_one_look_asks_for_a_screenful(api: FakeApi, run: Run) -> None:
    answer_many(api)
    result = run("top", "--once", "--json")
    assert len(result.stdout) < 100_000
    value = json.loads(result.stdout)
    assert value["status"]["identities"]["active"] == MANY
    assert len(value["identities"]) == 100
    [asked] = api.named("identity.ls")
    assert (asked.limit, asked.order, asked.living) == (100, "attention", True)
    assert len(json.loads(run("top", "--once", "--json", "-n", "7").stdout)["identities"]) == 7
    shown = run("top", "--once").stdout
    assert len(shown.splitlines()) < 120
    assert f"… and {MANY - 100} more: `troth ps`" in shown


def test_ps_shows_a_page_and_says_how_many_more(api: FakeApi, run: Run) -> None:
    answer_many(api)
    result = run("ps")
    assert len(result.stdout.splitlines()) == 101
    assert f"… and {MANY - 100} more" in result.stderr
    assert sum(request.limit for request in api.named("identity.ls")) == 100
    assert len(run("ps", "--limit", "1500").stdout.splitlines()) == 1501
    api.answers["status.show"] = Unavailable("Later.")
    assert "… and more: `troth ps --limit N`" in run("ps").stderr
    found = json.loads(run("ps", "--json", "-n", "3").stdout)
    assert (len(found["items"]), found["next"]) == (3, "id-00002")


def test_ps_of_retired_identities_alone_says_so(api: FakeApi, run: Run) -> None:
    def page(request: identities.ListIdentities) -> identities.IdentityPage:
        gone = [] if request.living else [make_identity("gone", state="retired")]
        return identities.IdentityPage(items=gone)

    api.answers["identity.ls"] = page
    assert "troth ps --all" in run("ps").stderr


def test_top_shows_operations_with_rates_and_durations(api: FakeApi, run: Run) -> None:
    view = look_of(make_use("certificate.issue", 3000, refused=30), make_use("node.report", 0))
    api.answers["status.show"] = view
    api.answers["identity.ls"] = identities.IdentityPage(items=[])
    shown = run("top", "--once").stdout
    assert "certificate.issue" in shown
    assert "10.0 ms" in shown
    assert "node.report" not in shown
    [rate] = json.loads(run("top", "--once", "--json").stdout)["rates"]
    assert rate["calls"] > rate["refused"] > rate["failed"] == 0


def test_rates_are_the_difference_of_two_looks():
    before = look_of(make_use("a.b", 100), make_use("c.d", 10))
    after = look_of(make_use("a.b", 300, refused=20, failed=2), make_use("c.d", 10))
    [rate] = compare_looks(before, after, 2.0)
    assert (rate.name, rate.calls, rate.refused, rate.failed) == ("a.b", 100.0, 10.0, 1.0)
    assert rate.median == pytest.approx(0.01)
    assert rate.slowest == pytest.approx(0.0982)
    restarted = msgspec.structs.replace(after, started_at=after.started_at + timedelta(hours=1))
    assert compare_looks(before, restarted, 2.0)[0].calls == 150.0


@pytest.mark.parametrize(
    ("share", "counts", "total", "seconds"),
    [
        (0.5, [0, 0], 0, None),
        (0.5, [10, 10], 10, 0.005),
        (0.5, [0, 10], 10, 0.055),
        (0.99, [0, 5], 10, math.inf),
    ],
)
def test_quantiles(share: float, counts: list[int], total: int, seconds: float | None):
    assert find_quantile(share, [0.01, 0.1], counts, total) == (
        seconds if seconds is None else pytest.approx(seconds)
    )


def test_the_schema_of_manifests_is_printed_for_editors(run: Run) -> None:
    result = run("schema")
    assert result.exit_code == 0
    found = json.loads(result.stdout)
    assert found["$schema"].endswith("2020-12/schema")
    kinds = {kind["properties"]["kind"]["const"]: kind for kind in found["oneOf"]}
    assert set(kinds) == {"Identity", "Issuer", "Policy", "Resource", "Role", "Segment", "Template"}
    spec = kinds["Identity"]["properties"]["spec"]
    assert {"owner", "purpose", "selectors"} <= spec["properties"].keys()
    assert all(field["description"] for field in spec["properties"].values())
    assert json.loads(run("schema", "--json").stdout) == found
