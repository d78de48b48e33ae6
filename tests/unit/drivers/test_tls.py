"""Whom drivers believe: the authorities they are given, and then nobody else."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest

from tests.fakes.jwksserver import make_certificate
from troth.drivers.tls import make_context


@pytest.mark.parametrize("by_file", [True, False])
def test_who_is_given_is_believed_alone(tmp_path: Path, by_file: bool) -> None:
    _, pem = make_certificate(tmp_path)
    (tmp_path / "ca.pem").write_text(pem)
    found = make_context(tmp_path / "ca.pem") if by_file else make_context(pem=pem)
    assert found.get_ca_certs(binary_form=True) == [ssl.PEM_cert_to_DER_cert(pem)]
    assert found.verify_mode is ssl.CERT_REQUIRED
    assert found.check_hostname
    assert found.minimum_version is ssl.TLSVersion.TLSv1_2


def test_without_any_the_systems_are_believed() -> None:
    expected = ssl.create_default_context().get_ca_certs(binary_form=True)
    assert make_context().get_ca_certs(binary_form=True) == expected


def test_what_cant_be_read_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "junk.pem").write_text("junk")
    for name in ("junk.pem", "missing.pem"):
        with pytest.raises(OSError):  # noqa: PT011 - OpenSSL's words differ by version
            make_context(tmp_path / name)
