from __future__ import annotations

import asyncio
import errno
import os
from dataclasses import replace
from datetime import timedelta

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from tests.fakes.issuer import NOW, FakeIssuer
from tests.fakes.machines import Maker
from tests.fakes.server import NODE_ID, FakeServer
from tests.fakes.source import in_loop
from tests.fakes.virtualtime import VirtualTime
from troth.agent.connection import Untrusted
from troth.agent.credential import CredentialFile, read_roots
from troth.agent.machine import Machine
from troth.agent.membership import Dialler, Membership, NotJoined
from troth.core.entropy import SeededEntropy
from troth.core.errors import (
    KINDS,
    Denied,
    Internal,
    Invalid,
    Refused,
    Unauthenticated,
    Unavailable,
)


class Place:
    """A node's directory and the server it talks to."""

    def __init__(self, folder):
        self.time = VirtualTime(NOW)
        self.server = FakeServer(self.time)
        self.dialled = []
        self.file = CredentialFile(folder / "agent")
        self.path = folder / "agent" / "node.json"
        self.roots = (self.server.issuer.x509.certificate,)
        self.membership = Membership(
            file=self.file,
            dialler=Dialler(public=self.dial_public, mutual=self.dial_mutual),
            clock=self.time.clock,
            entropy=SeededEntropy(),
            sleep=self.time.sleep,
        )

    def dial_public(self, roots):
        self.dialled.append("public")
        self.trusted = roots
        return self.server

    def dial_mutual(self, credential):
        self.dialled.append("mutual")
        return self.server

    async def obtain(self, token=None):
        return await self.membership.obtain(token, self.roots)

    async def renew_in_time(self, held):
        await self.membership.wait_for_renewal(held)
        return await self.membership.renew_persistently(held, self.server)


@pytest.fixture
def place(tmp_path):
    return Place(tmp_path)


@in_loop
async def test_joining_with_a_token_keeps_key_and_certificate_private(place):
    credential = await place.obtain("good-token")
    assert credential.spiffe_id == NODE_ID
    assert credential.not_after == NOW.replace(microsecond=0) + timedelta(hours=1)
    assert place.dialled == ["public"]
    assert place.path.stat().st_mode & 0o777 == 0o600
    assert place.path.parent.stat().st_mode & 0o777 == 0o700
    assert [path.name for path in place.path.parent.iterdir()] == ["node.json"]
    assert place.file.load() == credential
    assert "good-token" not in place.path.read_text()
    assert credential.key.hex() not in repr(credential)


@in_loop
async def test_without_a_token_a_new_node_is_told_how_to_join(place):
    with pytest.raises(NotJoined, match="troth token join --node NODE"):
        await place.obtain()


@in_loop
async def test_a_bad_token_is_not_tried_again(place):
    with pytest.raises(NotJoined, match=r"unknown.*troth token join"):
        await place.obtain("wrong")
    assert place.server.count() == {"node.attest": 1}
    assert not place.path.exists()


@in_loop
async def test_an_absent_server_is_tried_for_ever_at_growing_intervals(place):
    place.server.failure = Unavailable("away")
    task = asyncio.ensure_future(place.obtain("good-token"))
    await place.time.advance(3600)
    assert not task.done()
    assert 120 <= place.server.count()["node.attest"] <= 260
    place.server.failure = None
    await place.time.advance(31)
    assert (await task).spiffe_id == NODE_ID


@in_loop
async def test_the_wrong_server_is_not_tried_again(place):
    place.server.failure = Untrusted("not our roots")
    with pytest.raises(Untrusted):
        await place.obtain("good-token")
    assert place.server.count()["node.attest"] == 1


@in_loop
async def test_after_a_restart_the_kept_credential_is_used_and_renewed(place):
    first = await place.obtain("good-token")
    second = await place.obtain()
    assert second.spiffe_id == first.spiffe_id
    assert second.key != first.key
    assert place.dialled == ["public", "mutual"]
    assert place.file.load() == second


@in_loop
async def test_a_restart_while_the_server_is_away_goes_on_with_the_kept_one(place):
    first = await place.obtain("good-token")
    place.server.failure = Unavailable("away")
    assert await place.obtain() == first


@in_loop
async def test_a_node_that_the_server_forgot_joins_anew_if_it_can(place):
    await place.obtain("good-token")
    real = place.server.call

    async def forget(name, request):
        if name == "node.renew":
            raise Unauthenticated("This certificate is nobody's.")
        return await real(name, request)

    place.server.call = forget
    with pytest.raises(NotJoined, match="no longer accepts this node"):
        await place.obtain()
    place.server.tokens.add("second-token")
    assert (await place.obtain("second-token")).spiffe_id == NODE_ID


@in_loop
async def test_an_expired_credential_needs_a_new_token(place):
    await place.obtain("good-token")
    await place.time.advance(3601)
    with pytest.raises(NotJoined, match="expired at"):
        await place.obtain()
    place.server.tokens.add("second-token")
    assert (await place.obtain("second-token")).not_after > place.time.clock.now()


@in_loop
async def test_joining_again_trusts_what_was_learnt_since_the_ca_file_too(place):
    held = await place.obtain("good-token")
    await place.time.advance(3601)
    place.server.tokens |= {"second-token", "third-token"}
    old = Maker("old root").certificate.public_bytes(Encoding.DER)
    place.roots = (old,)
    await place.obtain("second-token")
    assert set(place.trusted) == {old, *held.roots}
    foreign = FakeIssuer("other.example", seed=9).x509.certificate
    place.roots = (foreign,)
    await place.time.advance(3601)
    await place.obtain("third-token")
    assert place.trusted == (foreign,)


@in_loop
async def test_renewal_at_half_life_and_again_after_failures(place):
    held = await place.obtain("good-token")
    task = asyncio.ensure_future(place.renew_in_time(held))
    await place.time.advance(1800 * 0.88)
    assert place.server.count()["node.renew"] == 0
    place.server.failure = Unavailable("away")
    await place.time.advance(1800 * 0.25)
    assert 3 <= place.server.count()["node.renew"] <= 30
    place.server.failure = Denied("Evicted.")
    await place.time.advance(7200)
    assert not task.done()
    place.server.failure = None
    await place.time.advance(61)
    renewed = await task
    assert renewed.key != held.key
    assert place.file.load() == renewed


@in_loop
async def test_new_roots_are_kept(place):
    held = await place.obtain("good-token")
    other = FakeIssuer(seed=9).x509.certificate
    changed = place.membership.adopt_roots(held, (other, *held.roots))
    assert place.file.load() == changed
    assert changed.chain == held.chain


@pytest.mark.parametrize(
    "changes",
    [
        {"chain": []},
        {"chain": [b"rubbish"]},
        {"x509_authorities": []},
        {"spiffe_id": "spiffe://x/y"},
    ],
)
@in_loop
async def test_a_server_that_answers_rubbish_is_refused(place, changes):
    real = place.server._certify_node
    place.server._certify_node = lambda csr: msgspec.structs.replace(real(csr), **changes)
    with pytest.raises(Internal):
        await place.obtain("good-token")
    assert not place.path.exists()


@in_loop
async def test_an_answer_of_another_type_is_refused(place):
    place.server._certify_node = lambda csr: {"chain": []}
    with pytest.raises(Internal):
        await place.obtain("good-token")


@pytest.mark.parametrize("content", [b"", b"{}", b'{"key":"AA=="}', b"\xff" * 100])
@in_loop
async def test_a_damaged_file_is_named(place, content):
    await place.obtain("good-token")
    place.path.write_bytes(content)
    with pytest.raises(Refused, match=r"node\.json is damaged"):
        await place.obtain()


@in_loop
async def test_a_key_beside_a_strange_certificate_is_damage(place):
    first = await place.obtain("good-token")
    second = await place.obtain()
    stored = msgspec.json.decode(place.path.read_bytes())
    old = {"chain": msgspec.to_builtins(list(first.chain))}
    place.path.write_bytes(msgspec.json.encode({**stored, **old}))
    with pytest.raises(Refused, match="damaged"):
        place.file.load()
    assert first.key != second.key


@in_loop
async def test_a_file_that_others_can_read_is_refused(place):
    await place.obtain("good-token")
    place.path.chmod(0o640)
    with pytest.raises(Refused, match="mode 0600"):
        place.file.load()


@in_loop
async def test_a_symlink_is_not_followed(place):
    await place.obtain("good-token")
    target = place.path.with_name("elsewhere")
    place.path.rename(target)
    place.path.symlink_to(target)
    with pytest.raises(Refused, match="can't be opened"):
        place.file.load()


@in_loop
async def test_a_crash_while_saving_leaves_the_old_file(place, monkeypatch):
    first = await place.obtain("good-token")

    def crash(descriptor):
        raise OSError("power failure")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", crash)
        with pytest.raises(OSError, match="power failure"):
            place.file.save(replace(first, node_id="nod_2"))
    assert place.file.load() == first
    assert (await place.obtain()).spiffe_id == NODE_ID


class FullDisk:
    """Lets nothing be written until somebody makes room."""

    def __init__(self, place, monkeypatch):
        self.full, self.tries = True, 0
        save = place.file.save

        def write(credential):
            self.tries += 1
            if self.full:
                raise OSError(errno.ENOSPC, "No space left on device")
            save(credential)

        monkeypatch.setattr(place.file, "save", write)


@pytest.mark.parametrize("step", ["join", "come back", "renew", "roots"])
@in_loop
async def test_a_full_disk_ends_nothing_and_is_written_to_later(place, monkeypatch, capsys, step):
    held = None if step == "join" else await place.obtain("good-token")
    disk = FullDisk(place, monkeypatch)
    late = asyncio.ensure_future(place.membership.save_late())
    match step:
        case "join":
            kept = await place.obtain("good-token")
        case "come back":
            kept = await place.obtain()
        case "renew":
            kept = await place.membership.renew(held, place.server)
        case _:
            assert held is not None
            kept = place.membership.adopt_roots(held, held.roots * 2)
    assert kept != held
    assert place.file.load() == held
    assert "No space left on device" in capsys.readouterr().out
    await place.time.advance(300)
    assert 4 <= disk.tries <= 20
    disk.full = False
    await place.time.advance(61)
    assert place.file.load() == kept
    tries = disk.tries
    await place.time.advance(300)
    assert disk.tries == tries
    late.cancel()


@in_loop
async def test_what_is_saved_late_is_the_newest(place, monkeypatch):
    held = await place.obtain("good-token")
    disk = FullDisk(place, monkeypatch)
    late = asyncio.ensure_future(place.membership.save_late())
    await place.membership.renew(held, place.server)
    disk.full = False
    newest = await place.membership.renew(held, place.server)
    await place.time.advance(300)
    assert place.file.load() == newest
    assert disk.tries == 2
    late.cancel()


@in_loop
async def test_being_no_node_is_not_advised_like_a_missing_role(place):
    with pytest.raises(NotJoined) as caught:
        await place.obtain()
    assert type(caught.value) not in KINDS  # the terminal adds advice to the plain kinds alone
    assert not isinstance(caught.value, Denied)


def test_ca_files(tmp_path):
    path = tmp_path / "ca.pem"
    with pytest.raises(Invalid, match="can't be read"):
        read_roots(path)
    path.write_bytes(b"rubbish")
    with pytest.raises(Invalid, match="no PEM certificate"):
        read_roots(path)
    der = FakeIssuer().x509.certificate
    path.write_bytes(x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM) * 2)
    assert read_roots(path) == (der, der)
    path.write_bytes(b"x" * (2 << 20))
    with pytest.raises(Invalid, match="larger than 1 MiB"):
        read_roots(path)


@pytest.fixture
def machine(place, tmp_path):
    """The place with a machine's certificate instead of a token."""
    made = Maker("Acme root").make("press-4")
    files = Machine(tmp_path / "device.pem", tmp_path / "device.key")
    files.certificate.write_bytes(made.pem)
    files.key.write_bytes(made.key_pem)
    files.key.chmod(0o600)
    place.membership.machine = files
    return files


@in_loop
async def test_a_machine_joins_by_its_certificate_without_a_token(place, machine):
    place.server.failure = Unavailable("away")
    task = asyncio.ensure_future(place.obtain())
    await place.time.advance(2)
    place.server.failure = None
    await place.time.advance(31)
    assert (await task).spiffe_id == NODE_ID
    (proof,) = place.server.proofs
    # It was made for the moment at which it was taken, not for the first try.
    assert proof.at > NOW + timedelta(seconds=2)


@in_loop
async def test_a_machine_that_was_away_too_long_joins_by_itself(place, machine):
    first = await place.obtain()
    await place.time.advance(3601)
    again = await place.obtain()
    assert again.not_after > place.time.clock.now()
    assert again.key != first.key
    assert place.server.count()["node.renew"] == 0


@in_loop
async def test_a_running_machine_whose_certificate_ran_out_joins_by_itself(place, machine):
    held = await place.obtain()
    task = asyncio.ensure_future(place.renew_in_time(held))
    place.server.failure = Unavailable("away")
    await place.time.advance(2 * 3600)
    assert not task.done()
    place.server.failure = None
    await place.time.advance(61)
    renewed = await task
    assert renewed.not_after > place.time.clock.now()
    assert place.server.requests("node.attest")[-1].method == "x509pop"
    assert place.file.load() == renewed


@in_loop
async def test_a_machine_whose_node_was_evicted_asks_until_it_is_readmitted(place, machine):
    held = await place.obtain()
    real, place.server.barred = place.server.call, True

    async def forget(name, request):
        if name == "node.renew":
            raise Unauthenticated("The client certificate was revoked.")
        return await real(name, request)

    place.server.call = forget
    task = asyncio.ensure_future(place.membership.renew_persistently(held, place.server))
    await place.time.advance(3000)
    assert not task.done()
    assert 50 <= place.server.count()["node.attest"] <= 110
    place.server.barred = False
    await place.time.advance(61)
    assert (await task).key != held.key
    place.server.barred = True
    with pytest.raises(NotJoined, match="was evicted"):
        await place.obtain()


def _swap_key(machine):
    machine.key.write_bytes(Maker("other").make("x").key_pem)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda m: m.certificate.unlink(), "can't be read"),
        (lambda m: m.key.unlink(), "can't be read"),
        (lambda m: m.certificate.write_text("junk"), "no PEM certificate"),
        (lambda m: m.key.write_text("junk"), "no unencrypted private key"),
        (_swap_key, "not the key of the certificate"),
        (lambda m: m.certificate.write_bytes(m.certificate.read_bytes() * 6), "more than 5"),
        (lambda m: m.certificate.write_bytes(b"x" * (1 << 21)), "larger than 1 MiB"),
    ],
)
@in_loop
async def test_a_machines_files_are_checked_and_named(place, machine, spoil, reason):
    spoil(machine)
    with pytest.raises(NotJoined, match=reason):
        await place.obtain()
    assert place.server.count() == {}
