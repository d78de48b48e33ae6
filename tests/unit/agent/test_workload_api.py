"""The Workload API's five methods: values, codes and how streams end."""

from __future__ import annotations

import asyncio
import json

import pytest
from google.protobuf.json_format import MessageToDict
from grpclib.const import Status
from grpclib.exceptions import GRPCError
from spiffe._proto import workload_pb2 as pb

from tests.fakes.callers import (
    HEADER,
    call_once,
    connect_raw,
    open_channel,
    read_status,
    stream_call,
)
from tests.fakes.source import in_loop, serve_node, until
from tests.fakes.tiny_ca import TinyCa
from troth.agent.view import View
from troth.core.errors import Denied, Internal, Unavailable

METHODS = {
    "FetchX509SVID": pb.X509SVIDRequest(),
    "FetchX509Bundles": pb.X509BundlesRequest(),
    "FetchJWTSVID": pb.JWTSVIDRequest(audience=["reports"]),
    "FetchJWTBundles": pb.JWTBundlesRequest(),
    "ValidateJWTSVID": pb.ValidateJWTSVIDRequest(audience="reports", svid="x.y.z"),
}
STREAMS = ("FetchX509SVID", "FetchX509Bundles", "FetchJWTBundles")


async def ask(node, method, request, **kwargs):
    async with open_channel(node.path) as channel:
        return await call_once(
            channel, f"/SpiffeWorkloadAPI/{method}", request.SerializeToString(), **kwargs
        )


async def refusal(node, method, request, **kwargs):
    with pytest.raises(GRPCError) as caught:
        await ask(node, method, request, **kwargs)
    return caught.value


@in_loop
async def test_x509_svids_come_with_keys_bundles_lists_and_hints(tmp_path):
    async with serve_node(tmp_path) as node:
        ca, partner = node.source.ca, TinyCa("partner.test")
        svids = (ca.issue("/web", "external"), ca.issue("/db", "internal"))
        node.source.view = View(svids, (ca.bundle(), partner.bundle()))
        reply = pb.X509SVIDResponse.FromString(
            await ask(node, "FetchX509SVID", pb.X509SVIDRequest())
        )
    own, foreign = node.source.view.bundles
    assert [svid.spiffe_id for svid in reply.svids] == [
        "spiffe://example.org/web",
        "spiffe://example.org/db",
    ]
    assert [svid.hint for svid in reply.svids] == ["external", "internal"]
    assert reply.svids[0].x509_svid == svids[0].chain[0]
    assert reply.svids[0].x509_svid_key == svids[0].private_key
    assert reply.svids[1].bundle == own.x509_authorities[0]
    assert list(reply.crl) == [own.crls[0], foreign.crls[0]]
    assert dict(reply.federated_bundles) == {"spiffe://partner.test": foreign.x509_authorities[0]}


@in_loop
async def test_a_hint_is_given_once(tmp_path):
    async with serve_node(tmp_path) as node:
        ca = node.source.ca
        twins = (ca.issue("/a", "same"), ca.issue("/b", "same"))
        node.source.view = View(twins, (ca.bundle(),))
        reply = pb.X509SVIDResponse.FromString(
            await ask(node, "FetchX509SVID", pb.X509SVIDRequest())
        )
    assert [svid.hint for svid in reply.svids] == ["same", ""]


@in_loop
async def test_bundles_of_both_kinds(tmp_path):
    async with serve_node(tmp_path, "/web") as node:
        ca = node.source.ca
        node.source.view = View(node.source.view.svids, (ca.bundle(TinyCa()),))
        x509 = pb.X509BundlesResponse.FromString(
            await ask(node, "FetchX509Bundles", pb.X509BundlesRequest())
        )
        jwt = pb.JWTBundlesResponse.FromString(
            await ask(node, "FetchJWTBundles", pb.JWTBundlesRequest())
        )
    bundle = node.source.view.bundles[0]
    assert dict(x509.bundles) == {"spiffe://example.org": b"".join(bundle.x509_authorities)}
    assert list(x509.crl) == list(bundle.crls)
    keys = json.loads(jwt.bundles["spiffe://example.org"])["keys"]
    assert len(keys) == 2
    assert all(key["kid"] for key in keys)


@in_loop
async def test_a_token_is_made_for_its_audience_and_validates(tmp_path):
    async with serve_node(tmp_path, "/web", "/db") as node:
        request = pb.JWTSVIDRequest(audience=["reports"], spiffe_id="spiffe://example.org/db")
        made = pb.JWTSVIDResponse.FromString(await ask(node, "FetchJWTSVID", request))
        assert [svid.spiffe_id for svid in made.svids] == ["spiffe://example.org/db"]
        token = made.svids[0].svid
        seen = pb.ValidateJWTSVIDResponse.FromString(
            await ask(
                node,
                "ValidateJWTSVID",
                pb.ValidateJWTSVIDRequest(audience="reports", svid=token),
            )
        )
        assert seen.spiffe_id == "spiffe://example.org/db"
        claims = MessageToDict(seen.claims)
        assert claims["aud"] == ["reports"]
        assert claims["exp"] > claims["iat"]
        for audience, svid in (("others", token), ("reports", token[:-2])):
            error = await refusal(
                node,
                "ValidateJWTSVID",
                pb.ValidateJWTSVIDRequest(audience=audience, svid=svid),
            )
            assert error.status is Status.INVALID_ARGUMENT


@in_loop
@pytest.mark.parametrize(
    ("method", "request_"),
    [
        ("FetchJWTSVID", pb.JWTSVIDRequest()),
        ("FetchJWTSVID", pb.JWTSVIDRequest(audience=[""])),
        ("FetchJWTSVID", pb.JWTSVIDRequest(audience=["a"] * 101)),
        ("FetchJWTSVID", pb.JWTSVIDRequest(audience=["a"], spiffe_id="https://x/y")),
        ("ValidateJWTSVID", pb.ValidateJWTSVIDRequest(audience="a")),
        ("ValidateJWTSVID", pb.ValidateJWTSVIDRequest(svid="a")),
    ],
)
async def test_a_missing_or_wrong_field_is_an_invalid_argument(tmp_path, method, request_):
    async with serve_node(tmp_path, "/web") as node:
        error = await refusal(node, method, request_)
    assert error.status is Status.INVALID_ARGUMENT
    assert error.message


@in_loop
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("metadata", [None, {"workload.spiffe.io": "TRUE"}])
async def test_nothing_is_said_without_the_security_header(tmp_path, method, metadata):
    async with serve_node(tmp_path, "/web") as node:
        error = await refusal(node, method, METHODS[method], metadata=metadata)
        assert node.source.peers == []
    assert error.status is Status.INVALID_ARGUMENT
    assert "workload.spiffe.io" in error.message


@in_loop
@pytest.mark.parametrize("method", METHODS)
async def test_malformed_protobuf_is_an_invalid_argument(tmp_path, method):
    async with serve_node(tmp_path, "/web") as node, open_channel(node.path) as channel:
        with pytest.raises(GRPCError) as caught:
            await call_once(channel, f"/SpiffeWorkloadAPI/{method}", b"\x0a\xff\xff")
    assert caught.value.status is Status.INVALID_ARGUMENT
    assert "well-formed" in str(caught.value)


@in_loop
@pytest.mark.parametrize("method", ["FetchWITSVID", "FetchWITBundles", "FetchEverything"])
async def test_what_is_not_offered_is_unimplemented(tmp_path, method):
    async with serve_node(tmp_path, "/web") as node:
        error = await refusal(node, method, pb.X509SVIDRequest())
    assert error.status is Status.UNIMPLEMENTED


@in_loop
@pytest.mark.parametrize("method", METHODS)
async def test_a_caller_that_attestation_refuses_is_told_why(tmp_path, method):
    async with serve_node(tmp_path, "/web") as node:
        node.source.refusal = Denied("The process is gone.")
        error = await refusal(node, method, METHODS[method])
    assert (error.status, error.message) == (Status.PERMISSION_DENIED, "The process is gone.")


@in_loop
@pytest.mark.parametrize("method", [*STREAMS, "FetchJWTSVID"])
async def test_a_caller_without_identity_is_told_what_was_attested(tmp_path, method):
    async with serve_node(tmp_path) as node:
        error = await refusal(node, method, METHODS[method])
    assert error.status is Status.PERMISSION_DENIED
    assert "unix:path:/usr/bin/test" in error.message


@in_loop
async def test_while_the_source_starts_callers_are_asked_back(tmp_path):
    async with serve_node(tmp_path, "/web") as node:
        node.source.refusal = Unavailable("Starting.")
        error = await refusal(node, "FetchX509SVID", pb.X509SVIDRequest())
    assert error.status is Status.UNAVAILABLE


@in_loop
async def test_a_stream_carries_each_change_and_nothing_else(tmp_path):
    async with serve_node(tmp_path, "/web") as node, open_channel(node.path) as channel:
        async with stream_call(
            channel, "/SpiffeWorkloadAPI/FetchX509SVID", metadata=HEADER
        ) as stream:
            await stream.send_message(b"", end=True)
            first = await stream.recv_message()
            ca, old = node.source.ca, node.source.view
            # Equal again: nothing to say. Then a rotation.
            await node.source.publish(View(old.svids, old.bundles))
            await node.source.publish(View((ca.issue("/web"),), old.bundles))
            second = await stream.recv_message()
            assert first != second
            assert (
                pb.X509SVIDResponse.FromString(second).svids[0].x509_svid
                == (node.source.view.svids[0].chain[0])
            )
            await stream.cancel()
        await until(lambda: node.source.watching == 0, "the stream's end")


@in_loop
@pytest.mark.parametrize("method", STREAMS)
@pytest.mark.parametrize(
    ("happening", "status"),
    [
        (lambda source: source.publish(View((), source.view.bundles)), Status.PERMISSION_DENIED),
        (
            lambda source: source.publish(
                View((), source.view.bundles, ("spiffe://example.org/web",))
            ),
            Status.PERMISSION_DENIED,
        ),
        (lambda source: source.fail(Denied("Retired.")), Status.PERMISSION_DENIED),
        (lambda source: source.fail(Unavailable("Lost.")), Status.UNAVAILABLE),
        (lambda source: source.fail(Internal("Broken.")), Status.INTERNAL),
        (lambda source: source.end(), Status.UNAVAILABLE),
    ],
    ids=["redacted", "withdrawn", "denied", "unavailable", "internal", "ended"],
)
async def test_how_a_stream_ends(tmp_path, method, happening, status):
    async with serve_node(tmp_path, "/web") as node, open_channel(node.path) as channel:
        async with stream_call(channel, f"/SpiffeWorkloadAPI/{method}", metadata=HEADER) as stream:
            await stream.send_message(b"", end=True)
            assert await stream.recv_message()
            await happening(node.source)
            messages, error = await read_status(stream)
        assert messages == []
        assert error is not None
        assert error.status is status
        await until(lambda: node.source.watching == 0, "the stream's end")


@in_loop
async def test_a_cut_off_caller_reads_which_identity(tmp_path):
    async with serve_node(tmp_path) as node:
        node.source.view = View((), (), ("spiffe://example.org/web",))
        error = await refusal(node, "FetchX509SVID", pb.X509SVIDRequest())
    assert "Cut off: spiffe://example.org/web" in error.message


@in_loop
async def test_stopping_asks_streams_back(tmp_path):
    async with serve_node(tmp_path, "/web") as node, connect_raw(node.path) as caller:
        stream_id = caller.call("/SpiffeWorkloadAPI/FetchX509SVID", *HEADER.items())
        caller.message(stream_id, b"", end=True)
        await until(lambda: node.source.watching == 1, "the stream")
        stopped = asyncio.create_task(node.socket.stop())
        trailers = await caller.trailers(stream_id)
        assert trailers["grpc-status"] == str(Status.UNAVAILABLE.value)
        goaway = await caller.goodbye()
        assert goaway is None or goaway.error_code == 0
        await stopped
        assert node.source.watching == 0


@in_loop
async def test_an_unforeseen_error_stays_inside(tmp_path):
    async with serve_node(tmp_path, "/web") as node:
        node.source.refusal = RuntimeError("the key is 0xdeadbeef")
        error = await refusal(node, "FetchX509SVID", pb.X509SVIDRequest())
    assert error.status is Status.INTERNAL
    assert "deadbeef" not in error.message
    assert "Traceback" not in error.message


@in_loop
async def test_two_hundred_streams_at_once(tmp_path):
    async with serve_node(tmp_path, "/web") as node, open_channel(node.path) as channel:
        calls = [
            stream_call(channel, "/SpiffeWorkloadAPI/FetchX509SVID", metadata=HEADER)
            for _ in range(200)
        ]
        streams = [await call.__aenter__() for call in calls]
        for stream in streams:
            await stream.send_message(b"", end=True)
        firsts = [await stream.recv_message() for stream in streams]
        ca = node.source.ca
        await node.source.publish(View((ca.issue("/web"),), node.source.view.bundles))
        seconds = [await stream.recv_message() for stream in streams]
        assert len(set(firsts)) == len(set(seconds)) == 1
        assert firsts[0] != seconds[0]
        for stream in streams:
            await stream.cancel()
        await until(lambda: node.source.watching == 0, "the streams' end")
        for call in calls:
            await call.__aexit__(None, None, None)


@in_loop
async def test_a_new_process_of_a_quarantined_identity_learns_that_it_is_cut_off(tmp_path):
    web = "spiffe://example.org/web"
    async with serve_node(tmp_path) as node, open_channel(node.path) as channel:
        node.source.view = View((), node.source.view.bundles, (web,), {web: "quarantined"})
        with pytest.raises(GRPCError) as caught:
            await call_once(channel, "/SpiffeWorkloadAPI/FetchX509SVID", b"")
    assert caught.value.status is Status.PERMISSION_DENIED
    assert f"Cut off: {web} is quarantined. `troth identity show`" in (caught.value.message or "")


@in_loop
async def test_a_locked_copy_is_pointed_to_the_list_of_copies(tmp_path):
    web = "spiffe://example.org/web"
    async with serve_node(tmp_path) as node:
        node.source.view = View((), (), (web,), {web: "locked"}, {web: "front"})
        error = await refusal(node, "FetchX509SVID", pb.X509SVIDRequest())
    assert f"{web} is locked. `troth instance ls front` tells why." in error.message
