"""A team's pipeline applies its own manifests over the mutual-TLS listener, and nobody else's."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.processes import Server, run_troth, wait_for
from tests.fakes.teams import EXAMPLE, identity
from troth.wire.api.manifests import ManifestDocument, SubmitManifests
from troth.wire.yaml import load_documents

pytestmark = pytest.mark.e2e

Run = Callable[..., subprocess.CompletedProcess[str]]


def read_adapted(name: str) -> str:
    """A file of the example, for this trust domain and this user."""
    text = (EXAMPLE / name).read_text().replace("example.org/team", "troth.local/team")
    return text.replace('"unix:uid:2101"', f'"unix:uid:{os.getuid()}"')


@pytest.fixture(scope="module")
def pipeline(troth: Server) -> Run:
    """Runs commands as team-a-deployer, with its certificate from the agent."""
    documents = [one.value for one in load_documents(read_adapted("platform.yaml").encode(), "p")]
    documents.append(identity("b-web", "b"))
    body = SubmitManifests(documents=[ManifestDocument(value=one) for one in documents])
    troth.call("manifest.apply", body)
    folder = troth.data / "pipeline"
    folder.mkdir(mode=0o700)

    def fetch() -> bool:
        fetched = run_troth(
            *("svid", "fetch", "--write", folder), SPIFFE_ENDPOINT_SOCKET=troth.endpoint
        )
        return fetched.returncode == 0

    wait_for(fetch, "the pipeline's certificate")
    files = ("--cert", folder / "svid.0.pem", "--key", folder / "svid.0.key")
    where = ("--url", troth.mutual, "--ca", troth.data / "ca.pem", *files)

    def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
        return run_troth(*where, *arguments)

    return run


def test_a_team_applies_its_manifests_and_steers_its_own(pipeline: Run, tmp_path: Path) -> None:
    own = tmp_path / "team-a.yaml"
    own.write_text(read_adapted("team-a.yaml"))
    planned = pipeline("plan", own)
    assert planned.returncode == 0, planned.stderr
    applied = pipeline("apply", own)
    assert applied.returncode == 0, applied.stderr
    assert "a-web" in applied.stdout
    for verb in ("suspend", "resume", "quarantine", "release"):
        moved = pipeline("identity", verb, "a-web", "--reason", "a drill")
        assert moved.returncode == 0, moved.stderr
    listed = pipeline("--json", "identity", "ls")
    assert listed.returncode == 0, listed.stderr
    assert "a-web" in listed.stdout
    assert "b-web" not in listed.stdout


def test_what_is_others_is_refused_and_the_reason_says_what_is_missing(
    pipeline: Run, troth: Server, tmp_path: Path
) -> None:
    refused = pipeline("identity", "quarantine", "b-web", "--reason", "not mine")
    assert refused.returncode == 1
    assert "identity.quarantine on 'b-web'" in refused.stderr
    assert "resource.labels.team being a" in refused.stderr
    stolen = tmp_path / "stolen.yaml"
    text = read_adapted("team-a.yaml").replace("name: a-web", "name: b-web")
    stolen.write_text(text.replace("path: /team-a/web", "path: /team-b/b-web"))
    refused = pipeline("apply", stolen)
    assert refused.returncode == 1
    assert "on 'b-web'" in refused.stderr
    power = tmp_path / "power.yaml"
    power.write_text(read_adapted("team-a.yaml").replace("[a-cart-reader]", "[troth.admin]"))
    refused = pipeline("apply", power)
    assert refused.returncode == 1
    assert "role.delegate on 'troth.admin'" in refused.stderr
    for command in (["template", "ls"], ["authority", "ls"], ["node", "ls"]):
        assert pipeline(*command).returncode == 1, command
    assert not [one for one in troth.read_journal("identity.quarantined") if "b-web" in one.subject]


def test_a_pipeline_that_is_cut_off_applies_nothing(
    pipeline: Run, troth: Server, tmp_path: Path
) -> None:
    """Last, since it doesn't come back: its certificate is revoked for good."""
    own = tmp_path / "team-a.yaml"
    own.write_text(read_adapted("team-a.yaml"))
    troth.move("team-a-deployer", "suspend")
    wait_for(lambda: pipeline("apply", own).returncode == 1, "the pipeline is refused")
