"""The how-to of MCP: the official SDK's server behind our middleware, its client as it is."""

from __future__ import annotations

import asyncio
import os
import re
import socket
import ssl
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from mcp.client.auth import OAuthTokenError

from tests.e2e.processes import Daemon, Programs, Server, open_folder, wait_for
from tests.fakes.issuer import make_private_key
from tests.fakes.jwksserver import make_certificate
from troth.core.jose.jwk import render_key
from troth.sdk.workload import NoIdentity
from troth.wire.api.manifests import ManifestDocument, SubmitManifests
from troth.wire.yaml import load_documents

pytestmark = [pytest.mark.interop, pytest.mark.e2e]

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "mcp.md"
IDENTIFIER = "https://notes.example.org/mcp"
KEY = make_private_key(91)
PEM = KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
PLANNER = "spiffe://troth.local/planner"
ASSISTANT = "spiffe://troth.local/assistant"


def read_blocks(language: str) -> list[str]:
    pattern = rf"^```{language}\n(.*?)^```$"
    return re.findall(pattern, PAGE.read_text(), re.DOTALL | re.MULTILINE)


@dataclass
class Stand:
    """Everybody in the how-to: its functions are `programs`, the MCP server runs at `url`."""

    troth: Server
    url: str
    tls: ssl.SSLContext
    programs: dict[str, Any]

    def call(self, tool: str, arguments: dict[str, Any], **options: Any) -> Any:
        """What a tool answers to an unmodified client."""
        return asyncio.run(
            self.programs["call_tool"](self.url, tool, arguments, self.tls, **options)
        )

    def as_planner(self) -> Any:
        """The MCP SDK's own client credentials with a key."""
        return self.programs["authenticate"](self.url, self.troth.url, PLANNER, PEM)

    def open_oauth(self, spiffe_id: str) -> Any:
        ca = self.troth.data / "ca.pem"
        return self.programs["open_oauth"](self.troth.endpoint, self.troth.url, ca, spiffe_id)

    def act(self, task: str, tool: str, arguments: dict[str, Any]) -> Any:
        """A tool called by the assistant, for whom the token `task` is of."""
        oauth = self.open_oauth(ASSISTANT)
        return asyncio.run(self.programs["act"](oauth, task, self.url, tool, arguments, self.tls))


def declare(troth: Server, url: str, programs: Programs) -> None:
    """The page's manifests, for processes of this machine."""
    me = [f"unix:uid:{os.getuid()}", f"unix:path:{Path(sys.executable).resolve()}"]
    (text,) = read_blocks("yaml")
    documents = [one.value for one in load_documents(text.encode(), "mcp.md")]
    for document in documents:
        spec = document["spec"]
        if document["kind"] == "Identity":
            server = document["metadata"]["name"] == "notes-server"
            spec["selectors"] = list(programs.selectors("notes")) if server else me
            if "client" in spec:
                spec["client"]["keys"] = [render_key(KEY.public_key())]
        elif document["kind"] == "Resource":
            spec["identifiers"] = [url]
    made = [ManifestDocument(value=document) for document in documents]
    troth.call("manifest.apply", SubmitManifests(documents=made))


@pytest.fixture(scope="module")
def stand() -> Iterator[Stand]:
    with open_folder() as folder:
        troth = Server(folder)
        troth.write_settings("")
        try:
            with run_notes(troth.start(), folder) as stand:
                yield stand
        finally:
            troth.stop()


class run_notes:
    """The page's MCP server as a process of its own, over TLS."""

    def __init__(self, troth: Server, folder: Path) -> None:
        self.troth, self.folder = troth, folder

    def __enter__(self) -> Stand:
        troth, folder = self.troth, self.folder
        blocks = read_blocks("python")
        (folder / "notes.py").write_text(blocks[0])
        _, pem = make_certificate(folder)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        url = f"https://localhost:{port}/mcp"
        programs = Programs(folder / "programs")
        declare(troth, url, programs)
        found: dict[str, Any] = {"__name__": "page"}
        for block in blocks:
            exec(compile(block, str(PAGE), "exec"), found)
        tls = ssl.create_default_context(cafile=str(troth.data / "ca.pem"))
        tls.load_verify_locations(cadata=pem)
        both = str(folder / "localhost.pem")
        program = [str(programs.find("notes")), str(folder / "notes.py")]
        arguments = [troth.endpoint, troth.url, troth.mutual, url, str(port), both, both]
        self.daemon = Daemon(folder, "notes", [*program, *arguments])
        stand = Stand(troth, url, tls, found)
        wait_for(lambda: self.is_up(stand), "the MCP server answers", 30)
        return stand

    def is_up(self, stand: Stand) -> bool:
        assert self.daemon.process.poll() is None, self.daemon.log
        try:
            return httpx.get(stand.url, verify=stand.tls, trust_env=False).status_code == 401
        except httpx.TransportError:
            return False

    def __exit__(self, *details: object) -> None:
        self.daemon.stop()
        print(self.daemon.log[-20_000:])


def test_the_metadata_lead_to_the_authorization_server(stand: Stand) -> None:
    with httpx.Client(verify=stand.tls, trust_env=False) as client:
        refused = client.post(stand.url, json={})
        assert refused.status_code == 401
        place = stand.url.replace("/mcp", "/.well-known/oauth-protected-resource/mcp")
        assert f'resource_metadata="{place}"' in refused.headers["www-authenticate"]
        document = client.get(place).json()
        assert document["resource"] == stand.url
        assert document["authorization_servers"] == [stand.troth.url]
        assert document["scopes_supported"] == ["read", "write"]
        # What clients demand that was there for a browser is there, and leads nowhere.
        metadata = f"{stand.troth.url}/.well-known/oauth-authorization-server"
        nowhere = client.get(metadata).json()["authorization_endpoint"]
        answer = client.get(nowhere, params={"response_type": "code", "redirect_uri": "https://x"})
        assert (answer.status_code, answer.json()["error"]) == (400, "unsupported_response_type")
        assert "location" not in answer.headers


def test_the_sdk_s_client_finds_its_way_with_a_key(stand: Stand) -> None:
    answer = stand.call("whoami", {}, auth=stand.as_planner())
    assert answer.structured_content == {"acts for": PLANNER, "is": PLANNER}
    added = stand.call("add_note", {"text": "Buy ink"}, auth=stand.as_planner())
    assert not added.is_error
    notes = stand.call("read_notes", {}, auth=stand.as_planner()).structured_content
    assert f"Buy ink ({PLANNER})" in notes["result"]


def test_the_token_of_another_resource_opens_nothing(stand: Stand) -> None:
    spec = {
        "owner": "team@example.org",
        "purpose": "Something else",
        "identifiers": ["https://other.example.org/mcp"],
        "servers": [],
        "actions": {"read": "Read"},
    }
    role = {
        "owner": "team@example.org",
        "purpose": "Reads something else too",
        "permissions": [{"resource": "other", "actions": ["read"]}],
        "includes": ["note-reader"],
    }
    documents = [("Resource", "other", spec), ("Role", "note-keeper", role)]
    made = [
        ManifestDocument(
            value={
                "apiVersion": "troth/v1",
                "kind": kind,
                "metadata": {"name": name},
                "spec": spec,
            }
        )
        for kind, name, spec in documents
    ]
    stand.troth.call("manifest.apply", SubmitManifests(documents=made))
    token = stand.open_oauth(PLANNER).request("https://other.example.org/mcp")
    with httpx.Client(verify=stand.tls, trust_env=False) as client:
        answer = client.post(stand.url, json={}, headers={"authorization": token.header})
    assert answer.status_code == 401
    assert 'error="invalid_token"' in answer.headers["www-authenticate"]


def test_an_agent_acts_for_its_owner_until_it_is_quarantined(stand: Stand) -> None:
    task = stand.open_oauth(PLANNER).request(stand.url).text
    answer = stand.act(task, "whoami", {})
    assert answer.structured_content == {"acts for": PLANNER, "is": ASSISTANT}
    assert not stand.act(task, "read_notes", {}).is_error
    refused = stand.act(task, "add_note", {"text": "Buy a yacht"})
    assert refused.is_error
    assert "doesn't permit write" in refused.content[0].text

    acting = stand.open_oauth(ASSISTANT).exchange(task, stand.url)
    assert acting.scopes == {"read"}
    headers = {"authorization": acting.header}
    assert not stand.call("read_notes", {}, headers=headers).is_error
    stand.troth.move("assistant", "quarantine")

    def is_refused() -> bool:
        with httpx.Client(verify=stand.tls, trust_env=False) as client:
            return client.post(stand.url, json={}, headers=headers).status_code == 401

    wait_for(is_refused, "the MCP server refuses the agent", 5)
    with pytest.raises(ExceptionGroup):
        stand.call("read_notes", {}, headers=headers)
    # The agent's own program can't get another, and its owner works on.
    with pytest.raises(NoIdentity):
        stand.open_oauth(ASSISTANT).exchange(task, stand.url)
    assert not stand.call("whoami", {}, auth=stand.as_planner()).is_error


def test_a_client_that_is_cut_off_gets_no_token(stand: Stand) -> None:
    assert not stand.call("whoami", {}, auth=stand.as_planner()).is_error
    stand.troth.move("planner", "quarantine")
    with pytest.raises(ExceptionGroup) as caught:
        stand.call("whoami", {}, auth=stand.as_planner())
    assert caught.group_contains(OAuthTokenError, match="invalid_client", depth=None)
