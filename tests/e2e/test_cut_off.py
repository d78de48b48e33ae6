"""Taking an identity away: how long until the workload, its peers and the lists know.

The bound is the issue's: one second from the administrator's call, with everything on one machine.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable

import httpx
import pytest
from cryptography import x509

from tests.e2e.processes import find_authority, wait_for
from troth.core.errors import Refused
from troth.wire.api.certificates import ListCertificates
from troth.wire.api.identities import (
    ListInstances,
    MoveIdentity,
    MoveInstance,
    NameIdentity,
)

pytest.importorskip("spiffe", reason="the PyPI package 'spiffe' isn't installed")
pytestmark = pytest.mark.e2e

BOUND = 1.0
"""Seconds."""


ROUNDS = 3
"""How often a measurement is taken anew: other tests keep the same two cores busy meanwhile."""


@pytest.fixture
def start(troth, programs, run_program):
    """Starts a workload under an identity of the same name, registered when first asked for."""
    known = set()

    def run(name: str):
        if name not in known:
            troth.register(name, *programs.selectors(name))
            known.add(name)
        return run_program(name, troth.endpoint)

    return run


@pytest.fixture
def hold_bound(record_property):
    """Takes measurements, seconds by name, until one set of them lies within the bound."""

    def hold(measure: Callable[[int], dict[str, float]]) -> None:
        measured: dict[str, float] = {}
        for number in range(ROUNDS):
            measured = measure(number)
            for what, seconds in measured.items():
                record_property(what, round(seconds, 3))
            if max(measured.values()) < BOUND:
                return
        raise AssertionError(f"above {BOUND} s, {ROUNDS} times; the last: {measured}")

    return hold


@pytest.fixture(scope="module")
def find_revoked(troth):
    """Looks a serial up on the authority's list, as the public listener serves it."""
    authority = find_authority(troth)
    trust = ssl.create_default_context(cafile=str(troth.data / "ca.pem"))
    with httpx.Client(base_url=troth.url, verify=trust, trust_env=False) as client:

        def find(serial: str) -> x509.RevokedCertificate | None:
            answer = client.get(f"/crl/{authority}.crl")
            assert answer.status_code == 200
            published = x509.load_der_x509_crl(answer.content)
            return published.get_revoked_certificate_by_serial_number(int(serial, 16))

        yield find


def follow(workload):
    workload.ask("follow")
    told = workload.expect(lambda told: told["event"] in ("update", "end"), "the first update")
    assert told["event"] == "update", told
    return told


def serial_of(told):
    return told["svids"][0]["serial"]


def expect_end(workload):
    end = workload.expect(lambda told: told["event"] == "end", "the end of the stream")
    assert end["status"] == "PERMISSION_DENIED", end
    return end


def test_quarantine_and_release(troth, start, find_revoked, hold_bound):
    bad, peer = start("bad"), start("peer")
    follow(peer)
    first = serial_of(bad.ask("fetch"))

    def cut_off_and_release(number: int) -> dict[str, float]:
        serial = serial_of(follow(bad))
        assert find_revoked(serial) is None
        asked = troth.move("bad", "quarantine")
        entry = wait_for(lambda: find_revoked(serial), "the serial on the published list")
        published = time.monotonic()
        end = expect_end(bad)
        told = peer.expect(
            lambda told: told["event"] == "update" and serial in told["revoked"],
            "the list at the peer",
        )
        assert "spiffe://troth.local/bad" in end["detail"]
        reason = entry.extensions.get_extension_for_class(x509.CRLReason).value.reason
        assert reason is x509.ReasonFlags.privilege_withdrawn
        assert bad.ask("fetch")["status"] == "PERMISSION_DENIED"
        assert bad.ask("fetch_jwt", audience="orders")["status"] == "PERMISSION_DENIED"

        released = troth.move("bad", "release")
        again = wait_for(lambda: come_back(bad), "a certificate after the release")
        assert serial_of(again) != serial
        return {
            "stream ended": end["at"] - asked,
            "list published": published - asked,
            "list at the peer": told["at"] - asked,
            "release to a new certificate": again["at"] - released,
        }

    hold_bound(cut_off_and_release)
    assert find_revoked(first) is not None, "what was revoked stays so"
    kinds = [entry.type for entry in troth.read_journal("identity.")]
    assert kinds.index("identity.quarantined") < kinds.index("identity.released")


def come_back(workload):
    """What is fetched, if anything: who is refused comes back, as clients do."""
    answer = workload.ask("fetch")
    return answer if "svids" in answer else None


def test_a_lock_cuts_one_copy_off_and_not_its_twin(troth, start, hold_bound):
    first, second = start("twin"), start("twin")
    kept = serial_of(follow(second))
    lost = []

    def lock(number: int) -> dict[str, float]:
        lost.append(serial_of(follow(first)))
        assert lost[-1] != kept, "each copy has a certificate of its own"
        asked = time.monotonic()
        troth.call("instance.lock", MoveInstance(id=find_instance(troth, first), reason="odd"))
        end = expect_end(first)
        # The twin hears of the revocation only, on the stream that goes on.
        told = second.expect(
            lambda told: told["event"] == "update" and lost[-1] in told["revoked"],
            "the list at the twin",
        )
        assert serial_of(told) == kept
        assert kept not in told["revoked"]
        assert first.ask("fetch")["status"] == "PERMISSION_DENIED"
        assert serial_of(second.ask("fetch")) == kept

        troth.call("instance.unlock", MoveInstance(id=find_instance(troth, first), reason="fine"))
        fresh = wait_for(lambda: come_back(first), "a certificate after the unlock")
        assert serial_of(fresh) not in (*lost, kept)
        return {"stream ended": end["at"] - asked, "list at the twin": told["at"] - asked}

    hold_bound(lock)


def find_instance(troth, workload):
    instances = troth.call("instance.ls", ListInstances(name="twin")).items
    return {item.pid: item.id for item in instances}[workload.pid]


def test_suspend_and_resume(troth, start, hold_bound):
    workload = start("pausing")
    serial = ""

    def suspend(number: int) -> dict[str, float]:
        nonlocal serial
        if number:
            troth.move("pausing", "resume")
            wait_for(lambda: come_back(workload), "another try")
        serial = serial_of(follow(workload))
        asked = troth.move("pausing", "suspend")
        return {"stream ended": expect_end(workload)["at"] - asked}

    hold_bound(suspend)
    certificate, *_ = troth.call("certificate.ls", ListCertificates(name="pausing")).items
    assert (certificate.serial, certificate.revoked_at is None) == (serial, False)
    troth.move("pausing", "resume")
    fresh = wait_for(lambda: come_back(workload), "a certificate after resuming")
    assert serial_of(fresh) != serial


def test_retiring_is_final(troth, start, find_revoked, hold_bound):
    def retire(number: int) -> dict[str, float]:
        name = f"leaving-{number}"
        workload = start(name)
        serial = serial_of(follow(workload))
        asked = troth.move(name, "retire")
        end = expect_end(workload)
        wait_for(lambda: find_revoked(serial), "the serial on the published list")
        for verb in ("activate", "resume", "release", "quarantine", "retire"):
            with pytest.raises(Refused):
                troth.call(f"identity.{verb}", MoveIdentity(name=name, reason="no way back"))
        assert troth.call("identity.show", NameIdentity(name=name)).state == "retired"
        assert workload.ask("fetch")["status"] == "PERMISSION_DENIED"
        return {"stream ended": end["at"] - asked}

    hold_bound(retire)
