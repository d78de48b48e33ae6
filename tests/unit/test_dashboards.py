"""The dashboard and the alerts ask for series and labels that the program really shows."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from troth.agent.metrics import AgentMetrics
from troth.server.metrics import Metrics

ROOT = Path(__file__).resolve().parents[2]
DASHBOARD = ROOT / "deploy" / "grafana" / "troth.json"
RULES = ROOT / "deploy" / "prometheus" / "troth.rules.yml"
SCRAPE_LABELS = {"job", "instance"}
WORDS = {
    *("sum", "min", "max", "count", "by", "rate", "increase", "time", "topk", "histogram_quantile"),
    *("and", "or", "unless"),
}


def fill_server() -> str:
    """A scrape in which every series with labels is there, as in a server that has worked."""
    metrics = Metrics()
    metrics.observe("certificate.issue", "ok", 0.1)
    metrics.observe_store("read", "ok", 0.1, 0.1, 1)
    metrics.observe_signatures("ok", 1, 0.1)
    metrics.observe_feed(0, 0.1)
    metrics.observe_decisions("ok", 1, 0.001)
    metrics.observe_task("crl.publish", "ok", 0.1, 1.0)
    metrics.count_failure("crl.publish")
    metrics.count_sent("siem", 1, 0, failed=False)
    metrics.show_sink("siem", "journal", 1, 0.1)
    metrics.show("troth_sink_dead_letters", 1, "siem")
    metrics.show("troth_store_under_way", 1, "read")
    for gauge in ("troth_connections", "troth_requests_under_way"):
        metrics.show(gauge, 1, "public")
    metrics.show("troth_identities", 1, "active")
    metrics.show("troth_authority_expires_seconds", 1, "x509-svid")
    return metrics.render(full=True).decode()


def fill_agent() -> str:
    metrics = AgentMetrics()
    metrics.observe_call("FetchX509SVID", "ok", 0.1)
    return metrics.render().decode()


def read_series() -> dict[str, set[str]]:
    """Names of series and their labels."""
    series: dict[str, set[str]] = {"up": set()}
    for line in (fill_server() + fill_agent()).splitlines():
        if not line.startswith("#"):
            match = re.fullmatch(r"(\w+)(?:\{(.*)\})? \S+", line)
            assert match is not None, line
            series.setdefault(match[1], set()).update(re.findall(r'(\w+)="', match[2] or ""))
    return series


SERIES = read_series()


def read_dashboard() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    return found


def list_queries() -> Iterator[tuple[str, str, str]]:
    """Where it stands, the expression, and the legend or labels that people see."""
    for panel in read_dashboard()["panels"]:
        for target in panel.get("targets", []):
            yield panel["title"], target["expr"], target["legendFormat"]
    for group in yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]:
        for rule in group["rules"]:
            shown = " ".join(rule["annotations"].values())
            yield rule["alert"], rule["expr"], shown.replace("$labels.", "")


def read_names(expression: str) -> tuple[dict[str, set[str]], set[str]]:
    """The series of a query with the labels asked of each, and the labels grouped by."""
    text = re.sub(r"\[[^\]]*\]", "", expression)  # ranges
    asked: dict[str, set[str]] = {}
    for name, matchers in re.findall(r"(\w+)\{([^}]*)\}", text):
        asked.setdefault(name, set()).update(re.findall(r"(\w+)\s*[!=]", matchers))
    bare = re.sub(r"\{[^}]*\}", "", text)
    groups = {
        label.strip()
        for match in re.findall(r"\bby \(([^)]*)\)", bare)
        for label in match.split(",")
    }
    bare = re.sub(r"\bby \([^)]*\)", "", bare)
    for name in re.findall(r"\b[a-z_]\w*", bare):
        if name not in WORDS:
            asked.setdefault(name, set())
    return asked, groups


@pytest.mark.parametrize(("place", "expression", "shown"), list(list_queries()))
def test_every_series_and_label_exists(place: str, expression: str, shown: str):
    asked, groups = read_names(expression)
    assert asked
    for name, labels in asked.items():
        assert name in SERIES, f"{place}: there is no series {name}"
        assert labels <= SERIES[name] | SCRAPE_LABELS, f"{place}: {name} has no such label"
    known = SCRAPE_LABELS.union(*(SERIES[name] for name in asked))
    assert groups <= known, place
    used = {name for name in re.findall(r"{{\s*\$?(\w+)\s*}}", shown) if name != "value"}
    assert used <= (groups or known), f"{place}: the legend shows what isn't there"


def test_the_check_finds_what_is_wrong():
    asked, groups = read_names('sum by (nobody) (rate(troth_gone_total{state="x"}[5m]))')
    assert (asked, groups) == ({"troth_gone_total": {"state"}}, {"nobody"})


def _name_family(series: str) -> str:
    return re.sub(r"_(bucket|count|sum|total|created)$", "", series)


def test_every_series_of_troth_stands_on_the_dashboard():
    shown = {name for _, expression, _ in list_queries() for name in read_names(expression)[0]}
    families = {_name_family(name) for name in SERIES}
    asked = {_name_family(name) for name in shown}
    left_out = {"troth_agent_identities", "troth_agent_snapshot_epoch"} | {
        *("troth_agent_refused_waiting", "troth_agent_build_info")
    }
    assert {name for name in families if name.startswith("troth_")} - asked == left_out


def test_the_dashboard_is_one_that_grafana_loads():
    dashboard = read_dashboard()
    assert dashboard["schemaVersion"] >= 36
    assert {"uid", "title", "templating", "time", "panels"} <= dashboard.keys()
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    variables = {variable["name"] for variable in dashboard["templating"]["list"]}
    cells: set[tuple[int, int]] = set()
    for panel in panels:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
        mine = {
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        }
        assert not cells & mine, f"{panel['title']} lies on another panel"
        cells |= mine
        for target in panel.get("targets", []):
            used = set(re.findall(r"\$(\w+)", target["expr"])) - {"__rate_interval"}
            assert used <= variables
            assert target["datasource"]["uid"] == "${datasource}"


def test_every_alert_says_how_bad_it_is_and_what_to_do():
    names = []
    for group in yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]:
        for rule in group["rules"]:
            names.append(rule["alert"])
            assert rule["labels"]["severity"] in ("warning", "critical")
            assert rule["annotations"].keys() == {"summary", "description"}
    assert len(set(names)) == len(names)
    text = (ROOT / "docs" / "how-to" / "observe.md").read_text(encoding="utf-8")
    assert not [name for name in names if f"`{name}`" not in text]


def run_promtool(*words: str, given: str = "") -> subprocess.CompletedProcess[str]:
    path = (
        f"{os.environ.get('PATH', '')}:{ROOT}/.cache/bin"  # where scripts/ensure_system.sh has it
    )
    program = shutil.which("promtool", path=path)
    if program is None:
        pytest.skip("promtool isn't here; Debian's package prometheus has it")
    command = [program, *words]
    return subprocess.run(command, input=given, capture_output=True, text=True, timeout=30)


def check_queries(folder: Path, queries: Iterable[str]) -> subprocess.CompletedProcess[str]:
    """What promtool says of queries, as recording rules."""
    rules = [{"record": f"query:{n}", "expr": query} for n, query in enumerate(queries)]
    file = folder / "queries.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": rules}]}))
    return run_promtool("check", "rules", str(file))


def test_promtool_takes_the_alerts():
    done = run_promtool("check", "rules", str(RULES))
    assert done.returncode == 0, done.stderr


def test_promtool_takes_what_the_dashboard_asks(tmp_path):
    asked = [
        target["expr"]
        for panel in read_dashboard()["panels"]
        for target in panel.get("targets", [])
    ]
    assert len(asked) > 30
    # Grafana fills this in before it asks; its other variables stand inside of strings.
    done = check_queries(tmp_path, [query.replace("$__rate_interval", "5m") for query in asked])
    assert (done.returncode, done.stderr) == (0, "")
    assert f"{len(asked)} rules found" in done.stdout
    assert check_queries(tmp_path, ["sum(rate(troth_operation_seconds_count))"]).returncode != 0


@pytest.mark.parametrize("fill", [fill_server, fill_agent])
def test_promtool_takes_what_is_scraped(fill):
    done = run_promtool("check", "metrics", given=fill())
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_ages_are_measured_when_somebody_looks():
    metrics = Metrics()
    age = [1.0]
    metrics.follow("troth_snapshot_age_seconds", lambda: age[0])
    assert "troth_snapshot_age_seconds 1.0" in metrics.render(full=False).decode()
    age[0] += timedelta(seconds=2).total_seconds()
    assert "troth_snapshot_age_seconds 3.0" in metrics.render(full=False).decode()
