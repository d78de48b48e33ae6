"""The first half of the story: identities for real processes, and certificates that change."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from troth.cli.demonstration.narration import Step
from troth.cli.demonstration.proxies import CONNECTION_SECONDS, Egress
from troth.cli.demonstration.scene import ACTORS, WORKERS, Scene
from troth.cli.demonstration.stage import WEAKER
from troth.core.errors import Unavailable
from troth.wire.api import identities, status

X509_SECONDS = 16
"""Short, so that half lives pass while one watches. A service would take an hour."""

REPORTER_SECONDS = 60
"""Longer: access tokens end with the certificate, and are to die of nothing but a quarantine."""

ROTATIONS = 2
NO_ROLES: Mapping[str, Sequence[str]] = MappingProxyType({})

MANIFEST = """\
# Written by `troth demo`. What may hold an identity is said here; no secret is handed out.
apiVersion: troth/v1
kind: Identity
metadata:
  name: {name}
  labels: {{app: demo}}
spec:
  kind: {kind}
  owner: demo@example.org
  purpose: {purpose}
  environment: demo
  expires: 1d
  selectors: [{selectors}]
  ttl: {{x509: {seconds}s, jwt: 60s}}
  roles: [{roles}]
"""


def start_troth(scene: Scene, step: Step) -> None:
    """Server and agent on an empty directory."""
    tell = scene.narrator
    tell.type(f"troth up --data {scene.data}")
    seconds = scene.start_server()
    tell.check("ready", True, f"{seconds:.2f} s from an empty directory to /readyz at {scene.url}")
    agent = scene.wait_agent()
    tell.check("the agent serves workloads", True, f"pid {agent}, on {scene.agent_socket}")
    view = scene.api.call("status.show", status.GetStatus())
    tell.check("the server says so too", view.ready, f"trust domain {view.trust_domain}")
    tell.say(
        "It made its own signing authorities, database and certificate; the agent joined with a "
        "one-time token. Nobody typed a password."
    )
    if not scene.stage.users:
        tell.say(WEAKER)
    engine = "sqlite" if scene.cluster is None else "postgresql"
    if scene.cluster is not None:
        tell.say(f"Its state is in a PostgreSQL of its own, pid {scene.cluster.pid}.")
    step.facts.update(seconds_to_ready=round(seconds, 3), users=scene.stage.users, database=engine)


def apply_identities(scene: Scene, step: Step) -> None:
    """A manifest, its plan in words, and its identities."""
    tell = scene.narrator
    path = scene.stage.folder / "identities.yaml"
    path.write_text(compose_manifest(scene), encoding="utf-8")
    for actor in ACTORS:
        if scene.stage[actor].uid is not None:
            tell.say(f"{actor} will run as user {scene.stage[actor].uid}")
    tell.type(f"troth apply {path}")
    done = scene.run_troth("apply", path, "--yes")
    tell.quote(done.stdout + done.stderr)
    tell.check("the manifest is applied", done.returncode == 0, f"exit code {done.returncode}")
    page = scene.api.call("identity.ls", identities.ListIdentities())
    states = {item.name: item.state for item in page.items}
    wanted = ["orders", "payments", "reporter"]
    tell.check(
        "three identities may be obtained, none for the impostor",
        all(states.get(name) == "active" for name in wanted) and "impostor" not in states,
        ", ".join(f"{name} {state}" for name, state in sorted(states.items())),
    )
    step.facts.update(states=states)


def compose_manifest(scene: Scene, roles: Mapping[str, Sequence[str]] = NO_ROLES) -> str:
    """The identities of the story, as YAML documents, with the roles that they have."""
    stage = scene.stage
    reporter = stage["reporter"]
    rows = [
        ("orders", "service", "takes orders and has them paid", _envoy_selectors(scene, "orders")),
        ("payments", "service", "takes payments", _envoy_selectors(scene, "payments")),
        (
            "reporter",
            "job",
            "reports what was paid",
            stage.select(reporter, stage.place_python(reporter), by_path=True),
        ),
    ]
    if not stage.users:
        for service, name in WORKERS.items():
            selectors = stage.select(stage[name], stage.place_python(stage[name]))
            rows.append((name, "service", f"a second program of {service}", selectors))
    return "---\n".join(
        MANIFEST.format(
            name=name,
            kind=kind,
            purpose=purpose,
            selectors=", ".join(f'"{selector}"' for selector in selectors),
            seconds=REPORTER_SECONDS if name == "reporter" else X509_SECONDS,
            roles=", ".join(roles.get(name, ())),
        )
        for name, kind, purpose, selectors in rows
    )


def _envoy_selectors(scene: Scene, name: str) -> list[str]:
    actor = scene.stage[name]
    return scene.stage.select(actor, scene.stage.place_envoy(actor))


def start_services(scene: Scene, step: Step) -> None:
    """Two services behind Envoys that speak mutual TLS."""
    tell, stage = scene.narrator, scene.stage
    scene.start_service("payments")
    names = dict.fromkeys(("orders", "reporter", scene.find_worker("orders").name))
    port = scene.start_envoy("payments", [scene.name(name) for name in names])
    egress = Egress(stage["orders"].folder / "egress.sock", scene.name("payments"), port)
    orders = scene.start_service("orders", "--through", egress.path)
    for name in ("reporter", "impostor"):
        scene.start_workload(name, stage[name], port)
    scene.notes["second"] = scene.start_workload("reporter-2", stage["reporter"], port)
    scene.start_holder(port)
    scene.notes["orders_port"] = scene.start_envoy("orders", [scene.name("reporter")], egress)
    scene.notes["payments_port"] = port
    for name in ("payments", "orders"):
        scene.processes[name].expect("ready")
        process, envoy = scene.processes[name], scene.processes[f"{name}-envoy"]
        user = stage[name].uid if stage.users else os.getuid()
        tell.say(f"{name}: application pid {process.pid}, Envoy pid {envoy.pid}, user {user}")
    tell.say(
        "Each Envoy asked the agent's socket for its certificate (SDS). The agent asked the "
        "kernel who calls. No key was copied, mounted or configured."
    )
    orders.command("start")
    report = scene.wait(lambda: _answered(scene, 50), "orders gets answers from payments")
    seen = report["peer"]
    tell.check(
        "payments' Envoy saw who calls",
        seen == {"service": "payments", "caller": scene.name("orders")},
        seen["caller"],
    )
    counters = scene.envoys["payments"].read_counters("ssl.versions.TLSv1.3", "ssl.session_reused")
    tell.check(
        "mutual TLS 1.3, no session resumed",
        counters["ssl.versions.TLSv1.3"] > 0 and counters["ssl.session_reused"] == 0,
        f"{counters['ssl.versions.TLSv1.3']} handshakes, {counters['ssl.session_reused']} resumed",
    )
    _check_traffic(scene, step)


def _answered(scene: Scene, least: int) -> dict[str, Any] | None:
    report = scene.read_traffic()
    return report if report["answered"] >= least else None


def _check_traffic(scene: Scene, step: Step) -> None:
    report = scene.read_traffic()
    scene.narrator.check(
        "no request has failed",
        report["failed"] == 0,
        f"{report['answered']} answered, {report['failed']} failed {report['failure']}".strip(),
    )
    step.facts.update(answered=report["answered"], failed=report["failed"])


def run_reporter(scene: Scene, step: Step) -> None:
    """A job with PyPI's `spiffe` and `spiffe-tls`, as they are."""
    tell = scene.narrator
    reporter = scene.processes["reporter"]
    reporter.expect("ready")
    got = reporter.ask("fetch")
    if not got["ok"]:
        raise Unavailable(f"The reporter got nothing: {got}.")
    tell.check(
        "the unmodified library `spiffe` gets an X509-SVID",
        got["spiffe_id"] == scene.name("reporter"),
        f"{got['spiffe_id']}, serial {got['serial'][:12]}…",
    )
    tell.check(
        "and a JWT-SVID for one audience",
        got["jwt_subject"] == scene.name("reporter")
        and got["audience"] == [scene.name("payments")],
        f"audience {got['audience']}",
    )
    called = reporter.ask("call")
    tell.check(
        "it calls payments over mutual TLS with `spiffe-tls`",
        called["ok"] and called["answer"]["caller"] == scene.name("reporter"),
        called.get("answer") or called,
    )
    step.facts.update(serial=got["serial"])


def run_impostor(scene: Scene, step: Step) -> None:
    """The reporter's program in other hands."""
    tell, stage = scene.narrator, scene.stage
    impostor = scene.processes["impostor"]
    impostor.expect("ready")
    got = impostor.ask("fetch")
    other = f"user {stage['impostor'].uid}" if stage.users else "a copy with another hash"
    tell.say(f"The same program with the same arguments, pid {impostor.pid}, but {other}.")
    tell.check(
        "the agent refuses it",
        not got["ok"] and got.get("code") == "PERMISSION_DENIED",
        f"{got.get('code')}: {got.get('reason')}",
    )
    tell.say(
        "The agent goes by what the kernel says about the process at the other end of the "
        "socket, not by what the process says about itself."
    )
    step.facts.update(code=got.get("code"), reason=got.get("reason"))


def rotate(scene: Scene, step: Step) -> None:
    """Certificates change at half their life while requests flow."""
    tell = scene.narrator
    tell.say(
        f"Certificates live {X509_SECONDS} s here and are renewed at half of that; connections "
        f"live {CONNECTION_SECONDS} s, so each new certificate is used at once."
    )
    serials: dict[str, list[str]] = {name: [] for name in scene.envoys}

    def watch() -> bool:
        for name, envoy in scene.envoys.items():
            serial = envoy.read_serial()
            if serial not in serials[name]:
                serials[name].append(serial)
                if len(serials[name]) > 1:
                    report = scene.read_traffic()
                    tell.say(
                        f"{name} has certificate {serial[:12]}… now "
                        f"({report['answered']} requests answered, {report['failed']} failed)"
                    )
        return all(len(found) > ROTATIONS for found in serials.values())

    scene.wait(watch, f"both Envoys get {ROTATIONS} new certificates", patience=3 * X509_SECONDS)
    for name, found in serials.items():
        tell.check(
            f"{name} rotated {ROTATIONS} times",
            len(found) > ROTATIONS,
            " → ".join(serial[:8] for serial in found),
        )
    _check_traffic(scene, step)
    step.facts.update(serials=serials)
