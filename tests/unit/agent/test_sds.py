"""Envoy's SDS on the socket, and the state of one stream."""

from __future__ import annotations

import asyncio

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from envoy.extensions.transport_sockets.tls.v3 import secret_pb2
from envoy.extensions.transport_sockets.tls.v3.tls_spiffe_validator_config_pb2 import (
    SPIFFECertValidatorConfig,
)
from envoy.service.discovery.v3 import discovery_pb2
from grpclib.const import Status
from grpclib.exceptions import GRPCError

from tests.fakes.callers import call_once, connect_raw, open_channel, read_status, stream_call
from tests.fakes.source import in_loop, serve_node, until
from tests.fakes.tiny_ca import TinyCa
from troth.agent.subscription import Subscription
from troth.agent.tombstone import Tombstone
from troth.agent.view import View
from troth.core.errors import Denied, Unavailable
from troth.wire.sds import TYPE_URL, SecretRequest

STREAM = "/envoy.service.secret.v3.SecretDiscoveryService/StreamSecrets"
FETCH = "/envoy.service.secret.v3.SecretDiscoveryService/FetchSecrets"
DELTA = "/envoy.service.secret.v3.SecretDiscoveryService/DeltaSecrets"
WEB = "spiffe://example.org/web"
DB = "spiffe://example.org/db"
TOMBSTONE = Tombstone()


def discovery(*names, nonce="", version="", error=None, type_url=TYPE_URL):
    request = discovery_pb2.DiscoveryRequest(
        resource_names=names, response_nonce=nonce, version_info=version, type_url=type_url
    )
    if error is not None:
        request.error_detail.code = 3
        request.error_detail.message = error
    return request.SerializeToString()


def read(data: bytes):
    """(response, secrets by name)."""
    response = discovery_pb2.DiscoveryResponse.FromString(data)
    secrets = {}
    for resource in response.resources:
        assert resource.type_url == TYPE_URL
        secret = secret_pb2.Secret.FromString(resource.value)
        secrets[secret.name] = secret
    return response, secrets


def leaf(secret) -> x509.Certificate:
    return x509.load_pem_x509_certificate(secret.tls_certificate.certificate_chain.inline_bytes)


def is_tombstone(secret) -> bool:
    return leaf(secret).not_valid_after_utc.year == 2000


class Stream:
    """A subscription under test, as its peer sees it."""

    def __init__(self, *names):
        self.state = Subscription(TOMBSTONE)
        self.state.apply_request(SecretRequest(names))

    def view(self, view):
        self.state.apply_view(view)
        return self.take()

    def request(self, *names, nonce, refusal=None):
        self.state.apply_request(SecretRequest(names, nonce=nonce, refusal=refusal))
        return self.take()

    def take(self):
        data = self.state.next_response()
        assert self.state.next_response() is None
        if data is None:
            return {}
        self.response, secrets = read(data)
        return secrets


@pytest.fixture
def ca():
    return TinyCa()


def test_a_certificate_comes_with_its_key(ca):
    view = View((ca.issue("/web"), ca.issue("/db")), (ca.bundle(),))
    secrets = Stream("default", DB).view(view)
    assert set(secrets) == {"default", DB}
    assert (
        leaf(secrets["default"]).public_bytes(serialization.Encoding.DER)
        == (view.svids[0].chain[0])
    )
    key = serialization.load_pem_private_key(
        secrets[DB].tls_certificate.private_key.inline_bytes, None
    )
    assert key.public_key() == leaf(secrets[DB]).public_key()


def test_rootca_holds_authorities_and_lists(ca):
    view = View((ca.issue("/web"),), (ca.bundle(TinyCa()),))
    context = Stream("ROOTCA").view(view)["ROOTCA"].validation_context
    assert len(x509.load_pem_x509_certificates(context.trusted_ca.inline_bytes)) == 2
    assert context.crl.inline_bytes.count(b"BEGIN X509 CRL") == 2
    assert not context.only_verify_leaf_cert_crl


@pytest.mark.parametrize(
    ("name", "domains"),
    [("ALL", ["example.org", "partner.test"]), ("spiffe://partner.test", ["partner.test"])],
)
def test_spiffe_validation_holds_each_trust_domain_with_its_lists(ca, name, domains):
    partner = TinyCa("partner.test")
    view = View((ca.issue("/web"),), (ca.bundle(), partner.bundle()))
    context = Stream(name).view(view)[name].validation_context
    assert context.custom_validator_config.name == "envoy.tls.cert_validator.spiffe"
    config = SPIFFECertValidatorConfig()
    assert context.custom_validator_config.typed_config.Unpack(config)
    assert [domain.name for domain in config.trust_domains] == domains
    for domain in config.trust_domains:
        assert domain.trust_bundle.inline_bytes.count(b"BEGIN CERTIFICATE") == 1
        assert domain.trust_bundle.inline_bytes.count(b"BEGIN X509 CRL") == 1


def test_no_names_means_everything_by_its_own_name(ca):
    view = View((ca.issue("/web"), ca.issue("/db")), (ca.bundle(),))
    stream = Stream()
    assert set(stream.view(view)) == {"spiffe://example.org", WEB, DB}
    assert stream.request(nonce="1") == {}
    more = View((*view.svids, ca.issue("/new")), view.bundles)
    assert set(stream.view(more)) == {"spiffe://example.org/new"}


def test_only_what_changed_is_sent_and_an_acknowledgement_is_not_answered(ca):
    view = View((ca.issue("/web"),), (ca.bundle(),))
    stream = Stream("default", "ROOTCA")
    assert set(stream.view(view)) == {"default", "ROOTCA"}
    assert stream.request("default", "ROOTCA", nonce="1") == {}
    assert stream.view(View(view.svids, view.bundles)) == {}
    revoked = View(view.svids, (ca.bundle(),))
    assert set(stream.view(revoked)) == {"ROOTCA"}
    both = View((ca.issue("/web"),), (ca.bundle(),))
    assert set(stream.view(both)) == {"default", "ROOTCA"}
    assert (stream.response.nonce, stream.response.version_info) == ("3", "3")


def test_after_a_refusal_there_is_silence_until_something_is_new(ca, capsys):
    view = View((ca.issue("/web"),), (ca.bundle(),))
    stream = Stream("default", "ROOTCA")
    stream.view(view)
    assert stream.request("default", "ROOTCA", nonce="1", refusal="bad key") == {}
    assert "bad key" in capsys.readouterr().out
    assert stream.view(View(view.svids, view.bundles)) == {}
    assert set(stream.view(View((ca.issue("/web"),), view.bundles))) == {"default"}


def test_a_stale_nonce_is_ignored(ca):
    view = View((ca.issue("/web"), ca.issue("/db")), (ca.bundle(),))
    stream = Stream(WEB)
    stream.view(view)
    stream.view(View((ca.issue("/web"), *view.svids[1:]), view.bundles))
    assert stream.request(WEB, DB, nonce="1") == {}
    assert stream.request(WEB, DB, nonce="") == {}
    assert stream.request(WEB, DB, nonce="7") == {}
    assert set(stream.request(WEB, DB, nonce="2")) == {DB}


def test_a_name_dropped_and_asked_for_again_is_sent_again(ca):
    view = View((ca.issue("/web"), ca.issue("/db")), (ca.bundle(),))
    stream = Stream(WEB, DB)
    stream.view(view)
    assert stream.request(WEB, nonce="1") == {}
    assert set(stream.view(View((ca.issue("/web"), ca.issue("/db")), view.bundles))) == {WEB}
    assert set(stream.request(WEB, DB, nonce="2")) == {DB}
    assert stream.request(nonce="3") == {}
    assert stream.view(View((ca.issue("/web"),), (ca.bundle(),))) == {}


def test_an_unknown_name_is_noted_and_sent_once_it_exists(ca, capsys):
    view = View((ca.issue("/web"),), (ca.bundle(),))
    stream = Stream(DB)
    assert stream.view(view) == {}
    assert stream.view(View(view.svids, (ca.bundle(),))) == {}
    assert capsys.readouterr().out.count(DB) == 1
    assert set(stream.view(View((*view.svids, ca.issue("/db")), view.bundles))) == {DB}


def test_a_withdrawn_identity_becomes_a_tombstone_and_release_a_certificate(ca):
    view = View((ca.issue("/web"),), (ca.bundle(),))
    stream = Stream("default", WEB, "ROOTCA")
    stream.view(view)
    ca.revoke(view.svids[0])
    secrets = stream.view(View((), (ca.bundle(),), (WEB,)))
    assert set(secrets) == {"default", WEB, "ROOTCA"}
    assert is_tombstone(secrets["default"])
    assert is_tombstone(secrets[WEB])
    assert not is_tombstone(stream.view(View((ca.issue("/web"),), (ca.bundle(),)))["default"])


def test_default_does_not_slip_into_another_identity_while_its_own_is_cut_off(ca):
    web, db = ca.issue("/web"), ca.issue("/db")
    stream = Stream("default")
    stream.view(View((web, db), ()))
    assert is_tombstone(stream.view(View((db,), (), (WEB,)))["default"])
    back = ca.issue("/web")
    secret = stream.view(View((back, db), ()))["default"]
    assert leaf(secret).public_bytes(serialization.Encoding.DER) == back.chain[0]


def test_default_waits_for_its_own_certificate_and_takes_no_other(ca):
    db, back = ca.issue("/db"), ca.issue("/web")
    opened, fresh = Stream("default"), Stream("default")
    cut_off = View((db,), (), (WEB,), default=WEB)
    assert is_tombstone(opened.view(cut_off)["default"])
    reissuing = View((db,), (), default=WEB)
    assert opened.view(reissuing) == {}
    assert fresh.view(reissuing) == {}
    for stream in (opened, fresh):
        secret = stream.view(View((back, db), (), default=WEB))["default"]
        assert leaf(secret).public_bytes(serialization.Encoding.DER) == back.chain[0]


@in_loop
async def test_fetch_and_streams_agree_on_a_default_that_is_cut_off(tmp_path):
    async with (
        serve_node(tmp_path) as node,
        open_channel(node.path) as channel,
        stream_call(channel, STREAM) as stream,
    ):
        node.source.view = View((node.source.ca.issue("/db"),), (), (WEB,), default=WEB)
        await stream.send_message(discovery("default"))
        _, streamed = read(await stream.recv_message())
        _, fetched = read(await call_once(channel, FETCH, discovery("default"), metadata=None))
        assert is_tombstone(streamed["default"])
        assert is_tombstone(fetched["default"])
        await stream.cancel()


def test_a_stream_that_begins_while_all_is_withdrawn_gets_tombstones(ca):
    stream = Stream("default", WEB, DB)
    secrets = stream.view(View((), (ca.bundle(),), (WEB,)))
    assert set(secrets) == {"default", WEB}
    assert all(is_tombstone(secret) for secret in secrets.values())


@in_loop
async def test_an_envoy_that_starts_during_quarantine_is_released_on_the_same_stream(tmp_path):
    async with (
        serve_node(tmp_path) as node,
        open_channel(node.path) as channel,
        stream_call(channel, STREAM) as stream,
    ):
        bundles = node.source.view.bundles
        node.source.view = View((), bundles, (WEB,), {WEB: "quarantined"})
        await stream.send_message(discovery("default"))
        _, secrets = read(await stream.recv_message())
        assert is_tombstone(secrets["default"])
        await node.source.publish(View((node.source.ca.issue("/web"),), bundles))
        _, secrets = read(await stream.recv_message())
        assert not is_tombstone(secrets["default"])
        await stream.cancel()


def test_an_identity_that_is_simply_gone_is_taken_back_too(ca):
    view = View((ca.issue("/web"), ca.issue("/db")), (ca.bundle(),))
    stream = Stream(DB)
    stream.view(view)
    assert is_tombstone(stream.view(View(view.svids[:1], view.bundles))[DB])
    everything = Stream()
    everything.view(view)
    secrets = everything.view(View(view.svids[:1], view.bundles))
    assert set(secrets) == {DB}
    assert is_tombstone(secrets[DB])


def test_a_bundle_that_is_gone_leaves_nobody_trusted(ca):
    partner = TinyCa("partner.test")
    svids = (ca.issue("/web"),)
    stream = Stream("spiffe://partner.test")
    stream.view(View(svids, (ca.bundle(), partner.bundle())))
    secret = stream.view(View(svids, (ca.bundle(),)))["spiffe://partner.test"]
    pem = secret.validation_context.trusted_ca.inline_bytes
    anchor = x509.load_pem_x509_certificate(pem)
    assert anchor.not_valid_after_utc.year == 2000
    # Holders of the tombstone have its key; it must not be the anchor's.
    tombstone = x509.load_der_x509_certificate(TOMBSTONE.certificate)
    assert anchor.public_key() != tombstone.public_key()


def test_a_caller_with_nothing_is_denied(ca):
    with pytest.raises(Denied):
        Stream("default").view(View((), (ca.bundle(),)))


def test_a_denied_caller_gets_no_bundle_on_the_way_out(ca):
    stream = Stream("default", "ROOTCA", "ALL")
    stream.state.withdraw_all()
    assert stream.take() == {}


@in_loop
async def test_subscribe_acknowledge_rotate_on_the_wire(tmp_path):
    async with (
        serve_node(tmp_path, "/web") as node,
        open_channel(node.path) as channel,
        stream_call(channel, STREAM) as stream,
    ):
        await stream.send_message(discovery("default", "ROOTCA"))
        response, secrets = read(await stream.recv_message())
        assert set(secrets) == {"default", "ROOTCA"}
        await stream.send_message(
            discovery("default", "ROOTCA", nonce=response.nonce, version=response.version_info)
        )
        ca = node.source.ca
        await node.source.publish(View((ca.issue("/web"),), node.source.view.bundles))
        response, secrets = read(await stream.recv_message())
        assert set(secrets) == {"default"}
        await stream.end()
        await node.source.publish(View((ca.issue("/web"),), node.source.view.bundles))
        response, secrets = read(await stream.recv_message())
        assert (set(secrets), response.nonce) == ({"default"}, "3")
        await stream.cancel()
        await until(lambda: node.source.watching == 0, "the stream's end")


@in_loop
async def test_withdrawal_and_release_on_one_open_stream(tmp_path):
    async with (
        serve_node(tmp_path, "/web") as node,
        open_channel(node.path) as channel,
        stream_call(channel, STREAM) as stream,
    ):
        await stream.send_message(discovery("default"))
        await stream.recv_message()
        bundles = node.source.view.bundles
        await node.source.publish(View((), bundles, (WEB,)))
        _, secrets = read(await stream.recv_message())
        assert is_tombstone(secrets["default"])
        await node.source.publish(View((node.source.ca.issue("/web"),), bundles))
        _, secrets = read(await stream.recv_message())
        assert not is_tombstone(secrets["default"])
        await stream.cancel()


@in_loop
@pytest.mark.parametrize(
    ("error", "status", "last"),
    [
        (Denied("Retired."), Status.PERMISSION_DENIED, 1),
        (Unavailable("Lost."), Status.UNAVAILABLE, 0),
    ],
)
async def test_a_denied_stream_is_tombstoned_first_and_a_lost_one_is_not(
    tmp_path, error, status, last
):
    async with serve_node(tmp_path, "/web") as node, connect_raw(node.path) as caller:
        stream_id = caller.call(STREAM)
        caller.message(stream_id, discovery("default"))
        await until(lambda: node.source.watching == 1, "the stream")
        talk = asyncio.create_task(caller.conversation(stream_id))
        await node.source.fail(error)
        messages, trailers = await talk
    assert trailers["grpc-status"] == str(status.value)
    assert len(messages) == 1 + last
    assert not is_tombstone(read(messages.pop(0))[1]["default"])
    assert all(is_tombstone(read(message)[1]["default"]) for message in messages)


@in_loop
@pytest.mark.parametrize(
    ("path", "request_", "status"),
    [
        (STREAM, b"\x0a\xff", Status.INVALID_ARGUMENT),
        (STREAM, discovery("a", type_url="type.googleapis.com/x.Cluster"), Status.INVALID_ARGUMENT),
        (STREAM, discovery(*(f"n{i}" for i in range(257))), Status.INVALID_ARGUMENT),
        (STREAM, discovery("default"), Status.PERMISSION_DENIED),
        (FETCH, discovery("default"), Status.PERMISSION_DENIED),
        (DELTA, b"", Status.UNIMPLEMENTED),
    ],
    ids=["malformed", "clusters", "too-many", "nobody", "nobody-fetch", "delta"],
)
async def test_refusals(tmp_path, path, request_, status):
    async with serve_node(tmp_path) as node, open_channel(node.path) as channel:
        with pytest.raises(GRPCError) as caught:
            await call_once(channel, path, request_, metadata=None)
    assert caught.value.status is status
    assert caught.value.message


@in_loop
async def test_a_malformed_second_request_ends_the_stream(tmp_path):
    async with (
        serve_node(tmp_path, "/web") as node,
        open_channel(node.path) as channel,
        stream_call(channel, STREAM) as stream,
    ):
        await stream.send_message(discovery("default"))
        await stream.recv_message()
        await stream.send_message(b"\x0a\xff")
        _, error = await read_status(stream)
        assert error is not None
        assert error.status is Status.INVALID_ARGUMENT
        await until(lambda: node.source.watching == 0, "the stream's end")


@in_loop
async def test_fetch_answers_once(tmp_path):
    async with serve_node(tmp_path, "/web") as node, open_channel(node.path) as channel:
        _, secrets = read(
            await call_once(channel, FETCH, discovery("default", "ALL"), metadata=None)
        )
        assert set(secrets) == {"default", "ALL"}
        _, secrets = read(await call_once(channel, FETCH, discovery("other"), metadata=None))
        assert secrets == {}
