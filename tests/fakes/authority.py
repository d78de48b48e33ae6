"""A CA for servers and clients on this machine, as files."""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509

from tests.fakes.certificates import Made, make_certificate

LOCAL = x509.SubjectAlternativeName(
    [x509.DNSName("localhost"), x509.IPAddress(ip_address("127.0.0.1"))]
)


@dataclass
class Authority:
    """Issues certificates for ``localhost`` into a folder."""

    folder: Path
    root: Made = field(default_factory=lambda: make_certificate("authority", ca=True))

    def __post_init__(self) -> None:
        self.file = self.folder / "ca.pem"
        self.file.write_text(self.root.pem)

    def issue(self, name: str) -> tuple[Path, Path]:
        """Files with a certificate and its key."""
        made = make_certificate(name, issuer=self.root, extensions=[(LOCAL, False)])
        certificate, key = made.write(self.folder)
        return Path(certificate), Path(key)
