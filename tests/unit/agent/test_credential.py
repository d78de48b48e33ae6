"""What lies on a node's disk or comes from its server, and can't be used."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.issuer import NOW
from tests.fuzz.files import _DER_KEYS, _FUTURE, _LEAF, _NODE, _PEM_KEYS, ROOT, _hold
from troth.agent.connection import make_context
from troth.agent.credential import CredentialFile, check_roots, read_roots
from troth.agent.machine import Machine
from troth.core.errors import Internal, Invalid, Refused
from troth.wire.pem import render_pem_certificates

NO_UTF8 = ROOT.replace(b"\x0c\x0bexample.org", b"\x0c\x0bexampl\xd7.org")
"""OpenSSL refuses it, and cryptography reads it."""

_EC = bytes.fromhex("2a8648ce3d0201")
NO_KIND = _LEAF.replace(_EC, _EC[:-1] + b"\x09")


def load(folder: Path, content: bytes) -> Any:
    folder.chmod(0o700)
    (folder / "node.json").write_bytes(content)
    (folder / "node.json").chmod(0o600)
    return CredentialFile(folder).load()


def test_a_sound_file_is_loaded(tmp_path: Path) -> None:
    assert load(tmp_path, json.dumps(_NODE).encode()).node_id == "nod_1"


@pytest.mark.parametrize("number", [3, 4, 5, 6])
def test_a_key_of_an_unknown_kind_is_damage(tmp_path: Path, number: int) -> None:
    with pytest.raises(Refused, match="damaged"):
        load(tmp_path, _hold("key")(_DER_KEYS[number]))


def test_roots_that_tls_refuses_are_damage(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="damaged"):
        load(tmp_path, _hold("roots")(NO_UTF8))
    with pytest.raises(Internal, match="can't be read"):
        check_roots((ROOT, NO_UTF8))
    with pytest.raises(Invalid, match="can't be used"):
        make_context((NO_UTF8,), None)


def test_a_ca_file_of_an_unknown_version_is_named(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_bytes(render_pem_certificates([_FUTURE]))
    with pytest.raises(Invalid, match=r"ca\.pem holds no PEM certificate"):
        read_roots(tmp_path / "ca.pem")


def test_a_machine_s_certificate_with_a_key_that_nobody_knows_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.pem").write_bytes(render_pem_certificates([NO_KIND]))
    (tmp_path / "a.key").write_bytes(_PEM_KEYS[0])
    with pytest.raises(Invalid, match=r"a\.pem is of a kind that nobody knows"):
        Machine(tmp_path / "a.pem", tmp_path / "a.key").prove(b"csr", (ROOT,), NOW)
