"""The whole HTTP side on real sockets, with operations that only echo."""

from __future__ import annotations

import asyncio
import ipaddress
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import wraps
from pathlib import Path
from typing import Any

import httpx
import uvloop
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from tests.fakes.issuer import encode_spki
from troth.core.clock import VirtualClock
from troth.core.entropy import SeededEntropy
from troth.core.errors import Denied, NotFound, Unauthenticated, Unavailable
from troth.core.tracing import NO_TRACER, Tracer
from troth.issuance.der import identify_key
from troth.operations.call import Call, Caller
from troth.operations.dispatch import Dispatcher
from troth.server.http import callers
from troth.server.http.app import build_app
from troth.server.http.listeners import Listener, TcpBinding, UnixBinding
from troth.server.metrics import Metrics
from troth.server.settings import Limits
from troth.server.tls import ServerTls
from troth.wire.api import nodes
from troth.wire.api.routes import ROUTES
from troth.wire.oauth.routes import OAUTH_ROUTES

AGENT = "spiffe://troth.test/troth/node/n1"


def in_loop(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Run an async test in the event loop that the server uses."""

    @wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        async def bounded() -> None:
            async with asyncio.timeout(30):
                await test(*args, **kwargs)

        uvloop.run(bounded())

    return run


@dataclass(frozen=True)
class Credential:
    """A certificate with its key."""

    chain: bytes
    key: bytes
    der: bytes

    def write(self, folder: Path, name: str) -> tuple[str, str]:
        (folder / f"{name}.pem").write_bytes(self.chain)
        (folder / f"{name}.key").write_bytes(self.key)
        return str(folder / f"{name}.pem"), str(folder / f"{name}.key")


class Authority:
    """A small CA for tests."""

    def __init__(self, name: str = "test root") -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        now = datetime.now(UTC)
        self.certificate = (
            x509.CertificateBuilder()
            .subject_name(self.name)
            .issuer_name(self.name)
            .public_key(self.key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=10))
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(key_cert_sign=True, crl_sign=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier(identify_key(self.spki)), critical=False)
            .sign(self.key, hashes.SHA256())
        )

    @property
    def spki(self) -> bytes:
        return encode_spki(self.key)

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.DER)

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    def issue(
        self,
        spiffe_id: str = "",
        *,
        life: timedelta = timedelta(hours=1),
        age: timedelta = timedelta(minutes=1),
        use_rsa: bool = False,
        signer: bool = True,
    ) -> Credential:
        """A client's certificate with `spiffe_id`, or without one the server's for localhost.

        It names its `signer` or, as a forger would, doesn't.
        """
        key: Any = (
            rsa.generate_private_key(65537, 2048)
            if use_rsa
            else ec.generate_private_key(ec.SECP256R1())
        )
        names: list[x509.GeneralName] = (
            [x509.UniformResourceIdentifier(spiffe_id)]
            if spiffe_id
            else [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        )
        use = ExtendedKeyUsageOID.CLIENT_AUTH if spiffe_id else ExtendedKeyUsageOID.SERVER_AUTH
        now = datetime.now(UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([]))
            .issuer_name(self.name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - age)
            .not_valid_after(now + life)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(digital_signature=True), critical=True)
            .add_extension(x509.ExtendedKeyUsage([use]), critical=False)
            .add_extension(x509.SubjectAlternativeName(names), critical=True)
        )
        if signer:
            identifier = x509.AuthorityKeyIdentifier(identify_key(self.spki), None, None)
            builder = builder.add_extension(identifier, critical=False)
        certificate = builder.sign(self.key, hashes.SHA256())
        return Credential(
            certificate.public_bytes(serialization.Encoding.PEM),
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            ),
            certificate.public_bytes(serialization.Encoding.DER),
        )


def _usage(**allowed: bool) -> x509.KeyUsage:
    names = [
        "digital_signature",
        "content_commitment",
        "key_encipherment",
        "data_encipherment",
        "key_agreement",
        "key_cert_sign",
        "crl_sign",
        "encipher_only",
        "decipher_only",
    ]
    return x509.KeyUsage(**{name: allowed.get(name, False) for name in names})


class Registry:
    """Callers of the test: every uid in `uids` is admin, every certificate a node.

    A test changes `uids`, `roles` and `revoked` while connections are open, and counts `reads`.
    """

    def __init__(self, uids: set[int] | None = None) -> None:
        self.uids = uids
        self.roles = frozenset({"admin"})
        self.revoked = False
        self.reads = 0
        self._known: dict[bytes, Caller] = {}

    def by_uid(self, uid: int, source: str) -> Caller:
        if self.uids is not None and uid not in self.uids:
            raise Denied(f"uid {uid} has no role here.")
        return Caller(f"uid:{uid}", self.roles, source=source)

    async def by_certificate(self, der: bytes, source: str) -> Caller:
        self._check()
        names = x509.load_der_x509_certificate(der).extensions.get_extension_for_class(
            x509.SubjectAlternativeName
        )
        [uri] = names.value.get_values_for_type(x509.UniformResourceIdentifier)
        if not uri.startswith("spiffe://troth.test/"):
            raise Unauthenticated("This is another trust domain's certificate.")
        self.reads += 1
        self._known[der] = Caller(uri, frozenset({"node"}), source=source)
        return self._known[der]

    def confirm_certificate(self, der: bytes, source: str) -> Caller | None:
        self._check()
        return self._known.get(der)

    def forget(self) -> None:
        """Memory is bounded."""
        self._known.clear()

    def _check(self) -> None:
        if self.revoked:
            raise Unauthenticated("The client certificate was revoked; get a new one.")


class Documents:
    """The publication: fixed documents, and obstacles that a test sets."""

    def __init__(self) -> None:
        self.obstacles: list[str] = []
        self.missing = False

    origin, mutual_origin = "https://localhost:8443", "https://localhost:8444"

    async def show_bundle(self) -> bytes:
        if self.missing:
            raise Unavailable("There is no authority yet.")
        return b'{"keys":[]}'

    async def show_jwks(self) -> bytes:
        return b'{"keys":[]}'

    async def show_discovery(self) -> bytes:
        return b'{"issuer":"https://localhost/svid"}'

    async def show_metadata(self) -> bytes:
        return b'{"issuer":"https://localhost:8443"}'

    async def show_token_keys(self) -> bytes:
        return b'{"keys":[]}'

    async def show_crl(self, authority_id: str) -> bytes:
        if authority_id != "aut_1":
            raise NotFound("There is no such list.")
        return b"\x30\x00"

    async def find_obstacles(self) -> list[str]:
        if self.missing:
            raise Unavailable("The store is away.")
        return self.obstacles


async def echo(call: Call[Any]) -> Any:
    return call.body


async def beat_once(call: Call[Any]) -> AsyncIterator[Any]:
    yield nodes.Heartbeat(epoch=1)
    await asyncio.Event().wait()


@dataclass
class Operations:
    """What the fake operations do and saw. `answer` and `follow` may be replaced by a test."""

    calls: list[Call[Any]] = field(default_factory=list)
    closed: asyncio.Event = field(default_factory=asyncio.Event)
    answer: Callable[[Call[Any]], Awaitable[Any]] = echo
    follow: Callable[[Call[Any]], AsyncIterator[Any]] = beat_once

    async def run(self, call: Call[Any]) -> Any:
        self.calls.append(call)
        return await self.answer(call)

    async def open(self, call: Call[Any]) -> AsyncIterator[Any]:
        self.calls.append(call)
        try:
            async for value in self.follow(call):
                yield value
        finally:
            self.closed.set()


@dataclass
class Stage:
    """Three listeners of one server, and clients for them."""

    clock: VirtualClock
    operations: Operations
    documents: Documents
    metrics: Metrics
    authority: Authority
    tls: ServerTls
    public: Listener
    mutual: Listener
    admin: Listener
    socket: Path
    exit: AsyncExitStack

    async def admin_client(self) -> httpx.AsyncClient:
        transport = httpx.AsyncHTTPTransport(uds=str(self.socket))
        return await self.exit.enter_async_context(
            httpx.AsyncClient(transport=transport, base_url="http://admin", timeout=10)
        )

    async def public_client(self) -> httpx.AsyncClient:
        return await self._tls_client(self.public.port, None)

    async def node_client(self, credential: Credential, folder: Path) -> httpx.AsyncClient:
        return await self._tls_client(self.mutual.port, credential.write(folder, "client"))

    async def _tls_client(self, port: int, pair: tuple[str, str] | None) -> httpx.AsyncClient:
        transport = httpx.AsyncHTTPTransport(verify=self.context(pair))
        return await self.exit.enter_async_context(
            httpx.AsyncClient(transport=transport, base_url=f"https://localhost:{port}", timeout=10)
        )

    def context(self, pair: tuple[str, str] | None = None) -> ssl.SSLContext:
        context = ssl.create_default_context(cadata=self.authority.pem.decode())
        if pair is not None:
            context.load_cert_chain(*pair)
        return context

    async def raw(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A bare connection to the admin socket, for what no HTTP client would send."""
        reader, writer = await asyncio.open_unix_connection(str(self.socket))
        self.exit.callback(writer.close)
        return reader, writer

    async def send(self, data: bytes) -> tuple[int, bytes]:
        """Send raw bytes; status and everything else of what comes back until the end."""
        reader, writer = await self.raw()
        writer.write(data)
        answer = await asyncio.wait_for(reader.read(), 8)
        return int(answer.split(b" ", 2)[1]) if answer else 0, answer


@asynccontextmanager
async def open_stage(
    folder: Path,
    *,
    limits: Limits | None = None,
    registry: Registry | None = None,
    tracer: Tracer = NO_TRACER,
) -> AsyncIterator[Stage]:
    """Start the listeners; stop them and close all clients at the end."""
    limits = limits or Limits(stop_seconds=1)
    clock = VirtualClock(datetime.now(UTC))  # certificates are checked against the real time
    operations, documents, metrics = Operations(), Documents(), Metrics()
    authority = Authority()
    server = authority.issue()
    tls = ServerTls(server.chain, server.key, [authority.der])
    dispatcher = Dispatcher(
        {
            **{route.name: operations.run for route in ROUTES if not route.stream},
            **dict.fromkeys(OAUTH_ROUTES, operations.run),
        },
        {route.name: operations.open for route in ROUTES if route.stream},
        clock,
        SeededEntropy(),
        metrics,
        tracer=tracer,
    )
    registry = registry or Registry()
    socket = folder / "admin.sock"

    def listen(name: str, binding: Any, authenticate: Any) -> Listener:
        app = build_app(dispatcher, documents, authenticate, metrics, limits=limits)
        return Listener(app, name=name, binding=binding, clock=clock, limits=limits)

    async with AsyncExitStack() as stack:
        listeners = [
            listen("public", TcpBinding("localhost", 0, tls.public), callers.accept_anybody),
            listen(
                "mutual",
                TcpBinding("localhost", 0, tls.mutual),
                callers.require_certificate(registry),
            ),
            listen("admin", UnixBinding(socket, 0o600), callers.require_uid(registry)),
        ]
        for listener in listeners:
            await listener.start()
            stack.push_async_callback(listener.stop)
        async with AsyncExitStack() as clients:
            public, mutual, admin = listeners
            yield Stage(
                clock=clock,
                operations=operations,
                documents=documents,
                metrics=metrics,
                authority=authority,
                tls=tls,
                public=public,
                mutual=mutual,
                admin=admin,
                socket=socket,
                exit=clients,
            )
