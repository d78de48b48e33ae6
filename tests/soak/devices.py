"""Devices under load: each enrols with a code, and goes on asking until it knows whether it has."""

from __future__ import annotations

import random
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from benchmarks.installation import make_csr
from tests.soak.clients import PAUSE, Client
from troth.core.errors import TrothError
from troth.wire.api.certificates import RevokeCertificate
from troth.wire.api.client import ApiClient
from troth.wire.api.devices import DeviceCredential, EnrollDevice, InviteDevices, RenewDevice
from troth.wire.api.identities import MoveInstance

COPIES = 30
"""Devices that share an identity, before there is another one."""

RENEWALS = 2


@dataclass(slots=True)
class Device:
    """One of two that found the same code; whoever comes first has it."""

    file: Path
    key: ec.EllipticCurvePrivateKey = field(
        default_factory=lambda: ec.generate_private_key(ec.SECP256R1())
    )
    instance_id: str = ""
    serials: list[str] = field(default_factory=list)
    refused: bool = False

    def keep(self, credential: DeviceCredential, key: ec.EllipticCurvePrivateKey) -> str:
        """Have the certificate, to be shown from now on; its serial."""
        leaf = x509.load_der_x509_certificate(credential.chain[0])
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        self.file.write_bytes(pem + leaf.public_bytes(Encoding.PEM))
        self.key, self.instance_id = key, credential.instance_id
        self.serials.append(f"{leaf.serial_number:040x}")
        return self.serials[-1]


class DeviceOwner(Client):
    """Invites; two devices try one code at once; the one that is in renews, and may lose it all."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._identity = ""

    def round(self) -> None:
        if not self._identity or self._rounds % COPIES == 0:
            name = f"{self.name}-{self._rounds}"
            self.register(name, kind="device", selectors=[])
            self._identity = name
        invited = self.admin.call("device.invite", InviteDevices(names=[self._identity]))
        self.ledger.note_codes([code.id for code in invited.codes])
        for code in invited.codes:
            device = self._enrol(code.id, code.code)
            if device is not None:
                self._live(device)
        self.pause(0.1 + self.random.random() * 0.3)

    def _enrol(self, code_id: str, code: str) -> Device | None:
        """Whoever got in with the code; None only if the soak is over."""
        rivals = [Device(self._folder / f"{self.name}.{letter}.pem") for letter in "xy"]
        threads = [
            threading.Thread(target=self._ask_for_entry, args=(rival, code_id, code))
            for rival in rivals
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        # Each asked until it was told, so that a lost answer is no excuse.
        if all(rival.refused for rival in rivals):
            self.ledger.complain(f"the enrolment code {code_id} is used up and nobody is in")
        return next((rival for rival in rivals if rival.serials), None)

    def _ask_for_entry(self, device: Device, code_id: str, code: str) -> None:
        request = EnrollDevice(method="code", evidence=code, csr=make_csr(device.key))
        while not self._over.is_set():
            server = random.choice(self._servers)
            try:
                with ApiClient.over_https(server.public, server.ca) as client:
                    credential = client.call("device.enroll", request)
            except TrothError as error:
                self.ledger.count_refusal(error.code)
                device.refused = error.code == "failed_precondition"
                if device.refused:
                    return
                self.pause(PAUSE)
                continue
            self._note(device.keep(credential, device.key), credential)
            self.ledger.note_enrolment(code_id, credential.instance_id)
            return

    def _live(self, device: Device) -> None:
        """Renew, perhaps after a crash or two; then come to an end, some of them."""
        for _ in range(RENEWALS):
            self._renew(device)
        fate = self.random.random()
        if fate < 0.2:
            self._end(device, device.serials[-1:])
        elif fate < 0.4:
            self._end(device, device.serials, lock=True)

    def _renew(self, device: Device) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        pem = str(device.file)
        with ApiClient.over_https(self._server.mutual, self._server.ca, (pem, pem)) as client:
            credential = client.call("device.renew", RenewDevice(csr=make_csr(key)))
        if credential.instance_id != device.instance_id:
            self.ledger.complain(f"device {device.instance_id} became {credential.instance_id}")
        self._note(device.keep(credential, key), credential)

    def _end(self, device: Device, serials: Sequence[str], *, lock: bool = False) -> None:
        """Revoke its last certificate, or lock it; either way it may not renew any more."""
        self.ledger.doubt(serials)
        reason = "the soak says so"
        if lock:
            request = MoveInstance(id=device.instance_id, reason=reason)
            self.admin.call("instance.lock", request)
        else:
            self.admin.call(
                "certificate.revoke", RevokeCertificate(serial=serials[0], reason=reason)
            )
        for serial in serials:
            self.ledger.note_revocation(serial)
        try:
            self._renew(device)
        except TrothError as error:
            self.ledger.count_refusal(error.code)
        else:
            self.ledger.complain(f"device {device.instance_id} was cut off and renewed")

    def _note(self, serial: str, credential: DeviceCredential) -> None:
        self.note(serial, credential.chain[0])
        self.ledger.note_device_certificate(serial)
