"""Registration on first sight, whole: `troth up`, a template, and other people's client."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from tests.e2e.processes import Server, run_troth, wait_for
from troth.wire.api.identities import ListIdentities, MoveIdentity, NameIdentity

pytest.importorskip("spiffe", reason="the PyPI package 'spiffe' isn't installed")
pytestmark = [pytest.mark.e2e, pytest.mark.interop]

ROOT = os.getuid() == 0
FIRST, SECOND, OUTSIDE = (61_301, 61_302, 61_400) if ROOT else (os.getuid(),) * 3
needs_root = pytest.mark.skipif(not ROOT, reason="only root can start processes of other users")

# The library as it is, in one process that asks once for each thing.
CLIENT = """
import json, os, sys
from spiffe import WorkloadApiClient
if os.getuid() == 0:
    os.setgroups([]); os.setgid(int(sys.argv[2])); os.setuid(int(sys.argv[2]))
with WorkloadApiClient(sys.argv[1]) as client:
    try:
        svid = client.fetch_x509_svid()
        token = client.fetch_jwt_svid({"ledger"})
        answer = {"id": str(svid.spiffe_id), "jwt": str(token.spiffe_id)}
    except Exception as error:
        answer = {"error": f"{type(error).__name__}: {error}"}
print(json.dumps(answer))
"""

TEMPLATE = """
apiVersion: troth/v1
kind: Template
metadata:
  name: batch
spec:
  match: ["unix:uid:{low}-{high}"]
  kind: job
  owner: batch@example.org
  purpose: nightly jobs
"""


@pytest.fixture(scope="module")
def template(troth: Server) -> None:
    path = troth.data.parent / "batch.yaml"
    path.write_text(TEMPLATE.format(low=FIRST - 1, high=FIRST + 9))
    checked = run_troth("check", path)
    assert checked.returncode == 0, checked.stderr
    applied = run_troth("--data", troth.data, "apply", path)
    assert applied.returncode == 0, applied.stderr


def fetch(troth: Server, uid: int) -> dict[str, str]:
    done = subprocess.run(
        [sys.executable, "-c", CLIENT, troth.endpoint, str(uid)],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    answer: dict[str, str] = json.loads(done.stdout)
    return answer


@pytest.mark.usefixtures("template")
def test_an_unmodified_client_gets_its_identity_with_its_first_call(troth: Server):
    answer = fetch(troth, FIRST)
    expected = f"spiffe://troth.local/batch/local/{FIRST}"
    assert answer == {"id": expected, "jwt": expected}
    view = troth.call("identity.show", NameIdentity(name=f"batch.local.{FIRST}"))
    assert (view.template, view.owner) == ("batch", "batch@example.org")
    assert view.selectors == [f"unix:uid:{FIRST}"]
    shown = run_troth("--data", troth.data, "identity", "ls", "--template", "batch", "--json")
    assert [item["name"] for item in json.loads(shown.stdout)["items"]] == [view.name]
    listed = run_troth("--data", troth.data, "identity", "ls", "--unattended")
    assert view.name not in listed.stdout
    assert "batch" in run_troth("--data", troth.data, "template", "ls").stdout
    # Its next process has the same one, and the server is not asked to register again.
    assert fetch(troth, FIRST)["id"] == expected
    assert len([e for e in troth.read_journal("identity.registered")
                if e.body["name"] == view.name]) == 1  # fmt: skip


@needs_root
@pytest.mark.usefixtures("template")
def test_another_uid_gets_another_one_and_a_stranger_none(troth: Server):
    assert fetch(troth, SECOND)["id"].endswith(f"/batch/local/{SECOND}")
    assert "PERMISSION_DENIED" in fetch(troth, OUTSIDE)["error"]
    names = [i.name for i in troth.call("identity.ls", ListIdentities(template="batch")).items]
    assert f"batch.local.{OUTSIDE}" not in names


@pytest.mark.usefixtures("template")
def test_what_an_administrator_retired_does_not_come_back(troth: Server):
    fetch(troth, FIRST)
    name = f"batch.local.{FIRST}"
    troth.call("identity.retire", MoveIdentity(name=name, reason="no longer wanted"))

    def refusal() -> bool:
        assert "PERMISSION_DENIED" in fetch(troth, FIRST)["error"]
        refused = troth.read_journal("workload.refused")
        return any("no longer wanted" in entry.body["reason"] for entry in refused)

    wait_for(refusal, "the refusal in the journal", 30.0)
