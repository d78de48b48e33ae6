"""Templates at the command line: listed, checked, applied; and what doctor says about them."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.api import FakeApi
from tests.fakes.views import make_identity, make_status
from tests.unit.cli.conftest import Run
from troth.core.errors import NotFound
from troth.wire.api import identities, journal, templates

UID = os.getuid()
MANIFEST = """
apiVersion: troth/v1
kind: Template
metadata: {name: batch}
spec:
  match: ["unix:uid:1000-1999"]
  kind: job
  owner: batch@example.org
  purpose: nightly jobs
"""


def make_view(name: str = "batch", **changes: Any) -> templates.TemplateView:
    values: dict[str, Any] = {
        "name": name,
        "prefix": f"/{name}",
        "naming": "{node}/{uid}",
        "match": [f"unix:uid:{UID}"],
        "nodes": ["local"],
        "kind": "job",
        "owner": "batch@example.org",
        "purpose": "nightly jobs",
        "environment": "default",
        "labels": {},
        "x509_ttl": 900,
        "jwt_ttl": 300,
        "hint": "",
        "unattended_after": 604_800,
        "retire_after": 604_800,
        "lifetime": 31_536_000,
        "max": 1000,
        "start": "active",
        "identities": 7,
        "revision": 1,
    }
    return templates.TemplateView(**(values | changes))


def test_templates_are_listed_with_whom_they_fit(api: FakeApi, run: Run) -> None:
    api.answers["template.ls"] = templates.TemplateList(items=[make_view()])
    shown = run("template", "ls").stdout
    for words in ("batch", f"unix:uid:{UID}", "local", "7 of 1000", "7 d"):
        assert words in shown
    found = json.loads(run("template", "ls", "--json").stdout)
    assert found["items"][0]["prefix"] == "/batch"


def test_an_empty_list_says_how_to_fill_it(api: FakeApi, run: Run) -> None:
    api.answers["template.ls"] = templates.TemplateList(items=[])
    done = run("template", "ls")
    assert done.exit_code == 0
    assert "kind Template" in done.stderr


def test_the_filters_reach_the_server(api: FakeApi, run: Run) -> None:
    api.answers["identity.ls"] = identities.IdentityPage(items=[])
    done = run("identity", "ls", "--template", "batch", "--unattended")
    assert "No identity fits" in done.stderr
    run("identity", "ls")
    first, second = api.named("identity.ls")
    assert (first.template, first.unattended) == ("batch", True)
    assert (second.template, second.unattended) == (None, False)


def test_ps_and_show_name_the_template(api: FakeApi, run: Run) -> None:
    made = make_identity("batch.local.1500", template="batch", managed=False)
    api.answers["identity.ls"] = identities.IdentityPage(items=[made, make_identity()])
    assert "TEMPLATE" in run("ps").stdout
    api.answers["identity.ls"] = identities.IdentityPage(items=[make_identity()])
    assert "TEMPLATE" not in run("ps").stdout
    api.answers["identity.show"] = made
    assert "by its template" in run("identity", "show", "batch.local.1500").stdout


def test_check_reads_templates(tmp_path: Path, run: Run) -> None:
    path = tmp_path / "batch.yaml"
    path.write_text(MANIFEST)
    assert run("check", str(path), "--strict").exit_code == 0
    path.write_text(MANIFEST.replace("unix:uid:1000-1999", "unix:path:/opt/**"))
    failed = run("check", str(path))
    assert failed.exit_code == 1
    assert "batch.yaml:6" in failed.stdout
    assert "names no uid and no unit" in failed.stdout


@pytest.fixture
def doctor(api: FakeApi, run: Run) -> Any:
    api.answers["status.show"] = make_status()
    api.answers["journal.ls"] = journal.JournalPage(items=[], head=0)
    api.answers["identity.ls"] = identities.IdentityPage(items=[])

    def call(*views: templates.TemplateView) -> str:
        api.answers["template.ls"] = templates.TemplateList(items=list(views))
        done = run("doctor", "--pid", str(os.getpid()), "--node", "local", "--no-agent")
        return str(done.stdout)

    return call


def test_doctor_says_that_a_template_fits(doctor: Any) -> None:
    assert "it is given an identity by template 'batch' when it first asks" in doctor(make_view())


def test_doctor_says_what_a_template_wants(doctor: Any) -> None:
    words = doctor(make_view(match=["unix:uid:4000000000"]))
    assert f"template batch wants unix:uid:4000000000, it is {UID}" in words
    assert "it gets nothing" in words


def test_doctor_names_templates_that_fit_alike(doctor: Any) -> None:
    assert "the templates a, b fit alike" in doctor(make_view("a"), make_view("b"))


def test_doctor_looks_at_this_node_alone(doctor: Any) -> None:
    assert "template" not in doctor(make_view(nodes=["web-1"])).replace("troth template", "")


def test_doctor_gets_along_with_a_server_without_templates(api: FakeApi, run: Run) -> None:
    api.answers["status.show"] = make_status()
    api.answers["journal.ls"] = journal.JournalPage(items=[], head=0)
    api.answers["identity.ls"] = identities.IdentityPage(items=[])
    api.answers["template.ls"] = NotFound("There is no operation template.ls.")
    done = run("doctor", "--pid", str(os.getpid()), "--node", "local", "--no-agent")
    assert "it gets nothing: there are no identities" in done.stdout
