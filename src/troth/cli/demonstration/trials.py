"""The second half of the story: identities are taken away, given back, and survive a crash."""

from __future__ import annotations

import shutil
import socket
import ssl
from datetime import datetime
from pathlib import Path
from typing import Any

from cryptography import x509

from troth.cli.demonstration.narration import Step
from troth.cli.demonstration.opening import X509_SECONDS
from troth.cli.demonstration.processes import Process
from troth.cli.demonstration.scene import WORKERS, Scene
from troth.core.errors import Unavailable
from troth.wire.api import identities, status
from troth.wire.api.journal import JournalEntry

NEW_SECONDS = 1.0
"""Within this a new handshake of a quarantined identity is refused."""

KEPT_SECONDS = 5.0
"""Within this the last request on a connection that was open is."""

SETTLED = 0.6
"""Seconds without an answer after which there is none to come: many requests were tried."""

REASON = "its host talks to an unknown address"


def quarantine(scene: Scene, step: Step) -> None:
    """A service is cut off at its peers, whatever it holds."""
    tell = scene.narrator
    serial = _arm_holder(scene)
    old = scene.envoys["orders"].read_serial()
    head = scene.read_head()
    tell.say(
        "The stubborn copy of orders plays the attacker: certificate and key in memory, one "
        f"connection after the other, one kept open. Its certificate: {serial[:12]}…"
    )
    tell.type(f'troth identity quarantine orders --reason "{REASON}"')
    began = scene.clock.monotonic()
    _move(scene, "quarantine", REASON)
    tell.say(
        f"recorded after {scene.clock.monotonic() - began:.3f} s; now the journal does the rest"
    )
    holder = scene.wait(lambda: _settled(scene.processes["holder"], "fresh", began), "refusals")
    fresh, reason = holder["fresh"]["last_accepted"] - began, holder["fresh"]["reason"]
    tell.check(
        f"payments' Envoy refuses new connections within {NEW_SECONDS:g} s",
        fresh <= NEW_SECONDS,
        f"the last that was accepted began {_since(fresh)}; then: {reason}",
    )
    scene.wait(lambda: _is_tombstone(scene), "a tombstone in orders' Envoy", KEPT_SECONDS)
    tell.check(
        "orders' own Envoy lost its certificate on the open stream",
        True,
        f"{scene.clock.monotonic() - began:.2f} s after; it holds one that expired "
        f"{scene.envoys['orders'].read_expiry()}",
    )
    _probe_tombstone(scene)
    holder = scene.wait(lambda: _settled(scene.processes["holder"], "kept", began), "refusals")
    kept = holder["kept"]["last_accepted"] - began
    report = scene.wait(lambda: _silent(scene), "no answers for orders", 2 * KEPT_SECONDS)
    reasons = scene.read_refusals("payments")
    through = report["last_answered"] - began
    tell.check(
        f"requests on a connection that was kept open end within {KEPT_SECONDS:g} s",
        kept <= KEPT_SECONDS,
        f"the last was answered {_since(kept)}",
    )
    tell.check(
        f"requests of orders through its own Envoy end within {KEPT_SECONDS:g} s",
        through <= KEPT_SECONDS,
        f"the last was answered {_since(through)}; then: {report['failure']}",
    )
    tell.check(
        "payments' Envoy says why",
        any("revoked" in reason for reason in reasons),
        " | ".join(sorted(reasons)),
    )
    tell.check(
        "it was the revocation, not the certificate's end",
        scene.clock.monotonic() - began < X509_SECONDS / 2,
        f"it would have held for {X509_SECONDS} s from when it was fetched",
    )
    _show_journal(scene, head, serial)
    scene.notes.update(revoked=[serial, old])
    step.facts.update(new=round(fresh, 3), kept=round(kept, 3), through_envoy=round(through, 3))


def _arm_holder(scene: Scene) -> str:
    holder = scene.processes["holder"]
    holder.expect("ready")
    armed = holder.ask("arm")
    if not armed["ok"]:
        raise Unavailable(f"The stubborn copy of orders got no certificate: {armed['reason']}.")

    def works() -> bool:
        report = holder.ask("report")
        return all(report[way]["accepted"] >= 5 for way in ("fresh", "kept"))

    scene.wait(works, "the stubborn copy of orders calls payments")
    return str(armed["serial"])


def _move(scene: Scene, verb: str, reason: str) -> None:
    names = ["orders"] if scene.stage.users else [WORKERS["orders"], "orders"]
    for name in names:
        scene.api.call(f"identity.{verb}", identities.MoveIdentity(name=name, reason=reason))


def _settled(holder: Process, way: str, began: float) -> dict[str, Any] | None:
    report = holder.ask("report")
    facts = report[way]
    quiet = facts["last_refused"] - max(facts["last_accepted"], began)
    return report if quiet > SETTLED else None


def _silent(scene: Scene) -> dict[str, Any] | None:
    report = scene.read_traffic()
    return report if report["last_failed"] - report["last_answered"] > SETTLED else None


def _since(seconds: float) -> str:
    return "before it" if seconds <= 0 else f"{seconds:.2f} s after it"


def _is_tombstone(scene: Scene) -> bool:
    return scene.envoys["orders"].read_expiry().startswith("2000-")


def _probe_tombstone(scene: Scene) -> None:
    """What orders' own listener shows to whoever connects now."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # only to look at it: it could not be verified
    address = ("127.0.0.1", scene.notes["orders_port"])
    with (
        socket.create_connection(address, timeout=KEPT_SECONDS) as plain,
        context.wrap_socket(plain) as wrapped,
    ):
        shown = x509.load_der_x509_certificate(wrapped.getpeercert(binary_form=True) or b"")
    scene.narrator.check(
        "whoever calls orders sees that it has no identity",
        shown.not_valid_after_utc.year == 2000,
        f"{shown.subject.rfc4514_string()}, expired {shown.not_valid_after_utc:%Y-%m-%d}",
    )


def _show_journal(scene: Scene, head: int, serial: str) -> None:
    tell = scene.narrator
    tell.type(f"troth journal tail --after {head}")
    entries = scene.read_journal(head)
    tell.quote("\n".join(_describe_entry(entry, entries[0].at) for entry in entries))
    types = {entry.type for entry in entries}
    revoked = {entry.body.get("serial") for entry in entries if entry.type == "certificate.revoked"}
    wanted = {"identity.quarantined", "certificate.revoked", "crl.published"}
    tell.check(
        "the journal has every step",
        wanted <= types and serial in revoked,
        f"positions {entries[0].position}–{entries[-1].position}" if entries else "nothing",
    )


def _describe_entry(entry: JournalEntry, first: datetime) -> str:
    more = entry.body.get("reason") or entry.body.get("serial") or ""
    after = (entry.at - first).total_seconds()
    return (
        f"{entry.position:4d}  +{after:6.3f} s  {entry.type:22s} {entry.subject}"
        f"  by {entry.actor}  {more}"
    )


def release(scene: Scene, step: Step) -> None:
    """New credentials on the streams that never broke."""
    tell = scene.narrator
    envoy = scene.envoys["orders"]
    names = ("cluster.agent.upstream_cx_total", "cluster.agent.upstream_rq_total")
    before, streams = scene.read_traffic(), envoy.read_counters(*names)
    tell.type('troth identity release orders --reason "it was a false alarm"')
    began = scene.clock.monotonic()
    _move(scene, "release", "it was a false alarm")

    def answered() -> dict[str, Any] | None:
        report = scene.read_traffic()
        return report if report["answered"] > before["answered"] else None

    report = scene.wait(answered, "orders gets answers again")
    seconds = scene.clock.monotonic() - began
    serial = envoy.read_serial()
    tell.check("traffic flows again", True, f"{seconds:.2f} s after the release")
    tell.check(
        "with a new certificate",
        serial not in scene.notes["revoked"],
        f"serial {serial[:12]}… where {scene.notes['revoked'][1][:12]}… was",
    )
    after = envoy.read_counters(*names)
    tell.check(
        "on the same SDS streams",
        after == streams,
        f"{after[names[1]]} streams on {after[names[0]]} connection, as before",
    )
    holder = scene.processes["holder"].ask("report")["fresh"]
    tell.check(
        "the certificate from before stays revoked",
        holder["last_refused"] > holder["last_accepted"] < began,
        f"the stubborn copy was refused {holder['refused']} times",
    )
    scene.company.stop(scene.processes["holder"])
    scene.notes["failed"] = report["failed"]
    step.facts.update(seconds=round(seconds, 3), serial=serial)


def lock_instance(scene: Scene, step: Step) -> None:
    """One running copy is cut off, its sibling is not."""
    tell, first, second = scene.narrator, scene.processes["reporter"], scene.notes["second"]
    second.expect("ready")
    held = [first.ask("hold"), second.ask("hold")]
    tell.check(
        "two reporters hold the same identity with different certificates",
        all(one["ok"] for one in held) and held[0]["serial"] != held[1]["serial"],
        ", ".join(str(one.get("serial", one))[:12] for one in held),
    )
    found = scene.api.call("instance.ls", identities.ListInstances(name="reporter")).items
    instance = next(item for item in found if item.pid == first.pid)
    tell.type(f'troth instance lock {instance.id} --reason "it leaks memory"')
    began = scene.clock.monotonic()
    scene.api.call("instance.lock", identities.MoveInstance(id=instance.id, reason="it leaks"))
    refusal = scene.wait(lambda: _refused(first), "the locked copy is refused")
    tell.check(
        f"pid {first.pid} is refused",
        refusal["code"] == "PERMISSION_DENIED",
        f"{scene.clock.monotonic() - began:.2f} s after: {refusal['reason']}",
    )
    stale = scene.wait(lambda: _cant_call(first), "payments refuses the locked copy")
    tell.check("its old certificate opens nothing", not stale["ok"], stale["reason"])
    called = second.ask("call")
    tell.check(
        f"pid {second.pid} works on",
        second.ask("hold")["ok"] and called["ok"],
        called.get("answer"),
    )
    tell.type(f'troth instance unlock {instance.id} --reason "mended"')
    scene.api.call("instance.unlock", identities.MoveInstance(id=instance.id, reason="mended"))
    again = scene.wait(lambda: _held(first), "the unlocked copy gets an SVID")
    tell.check("unlocked, it gets a new one", again["serial"] != held[0]["serial"], again["serial"])
    scene.notes["revoked"].append(held[0]["serial"])
    step.facts.update(instance=instance.id)


def _refused(process: Process) -> dict[str, Any] | None:
    answer = process.ask("hold")
    return None if answer["ok"] else answer


def _cant_call(process: Process) -> dict[str, Any] | None:
    answer = process.ask("call")
    return None if answer["ok"] else answer


def _held(process: Process) -> dict[str, Any] | None:
    answer = process.ask("hold")
    return answer if answer["ok"] else None


def explain_and_verify(scene: Scene, step: Step) -> None:
    """Doctor on the impostor; openssl on what was issued and revoked."""
    tell = scene.narrator
    impostor = scene.processes["impostor"]
    tell.type(f"troth doctor --pid {impostor.pid}")
    done = scene.run_troth("doctor", "--pid", str(impostor.pid))
    lines = done.stdout.splitlines()
    start = next((n for n, line in enumerate(lines) if f"pid {impostor.pid}" in line), 0)
    tell.quote("\n".join(lines[start:]))
    wanted = "unix:uid" if scene.stage.users else "unix:sha256"
    tell.check(
        "doctor tells which selector the impostor lacks",
        any(wanted in line for line in lines[start:]),
        wanted,
    )
    reporter = scene.processes["reporter"]
    written = reporter.ask("write")
    if not written["ok"]:
        raise Unavailable(f"The reporter can't write its SVID: {written['reason']}.")
    crl = _download_crl(scene)
    loaded = x509.load_der_x509_crl(crl.read_bytes())
    revoked = {f"{entry.serial_number:x}" for entry in loaded}
    tell.check(
        "every certificate that was taken away is on the revocation list",
        set(scene.notes["revoked"]) <= revoked,
        f"{len(revoked)} serials, valid until {loaded.next_update_utc}",
    )
    _ask_openssl(scene, Path(written["folder"]), crl)
    step.facts.update(revoked=len(revoked))


def _download_crl(scene: Scene) -> Path:
    view = scene.api.call("status.show", status.GetStatus())
    authority = next(a for a in view.authorities if a.use == "x509-svid" and a.state == "active")
    answer = scene.get(f"/crl/{authority.id}.crl")
    if answer is None or answer.status_code != 200:
        raise Unavailable("The server doesn't hand out its revocation list.")
    path = scene.stage.folder / "x509.crl"
    path.write_bytes(answer.content)
    return path


def _ask_openssl(scene: Scene, folder: Path, crl: Path) -> None:
    tell = scene.narrator
    if shutil.which("openssl") is None:
        tell.say("openssl isn't installed here, so it isn't asked (Debian: apt install openssl)")
        return
    pem = scene.stage.folder / "x509.pem"
    roots, svid = folder / "bundle.pem", folder / "svid.pem"
    convert = ("-inform", "DER", "-in", crl, "-CAfile", roots, "-out", pem)
    verify = ("-CAfile", roots, "-untrusted", svid, "-crl_check", "-CRLfile", pem, svid)
    for command in (("openssl", "crl", *convert), ("openssl", "verify", *verify)):
        tell.type(" ".join(map(str, command)))
        done = scene.company.run(command)
        tell.quote(done.stdout + done.stderr)
        tell.check(f"openssl {command[1]} agrees", done.returncode == 0, f"exit {done.returncode}")


def _passes(caller: Process) -> dict[str, Any] | None:
    answer = caller.ask("read")
    return answer if answer.get("status") == 200 else None


def crash(scene: Scene, step: Step) -> None:
    """The server dies without warning; what was given out goes on."""
    tell = scene.narrator
    before, head = scene.read_traffic(), scene.read_head()
    agent = scene.wait_agent()
    server = scene.processes["server"]
    tell.type(f"kill -9 {server.pid}")
    server.popen.kill()
    scene.company.stop(server)
    began = scene.clock.monotonic()
    tell.check("nothing answers at the server's address", scene.get("/healthz") is None)
    held = scene.processes["reporter"].ask("hold")
    tell.check(
        "the agent serves what it holds, on a new connection too",
        held["ok"],
        held.get("serial", held.get("reason")),
    )
    called = scene.processes["reporter"].ask("call")
    tell.check("mutual TLS works on", called["ok"], called.get("answer") or called)
    caller = scene.processes["caller"]
    caller.command("read")  # its answer is looked at later: the outage isn't to last longer for it
    seconds = scene.start_server()
    away = scene.clock.monotonic() - began
    tell.check("started again", True, f"ready in {seconds:.2f} s, {away:.2f} s after the crash")
    asked = caller.expect("read")
    tell.check(
        "meanwhile the gate let nothing through that nobody could decide",
        asked.get("status") == 503,
        asked.get("status", asked.get("reason")),
    )
    tell.check("the agent never stopped", scene.wait_agent() == agent, f"pid {agent}")
    serials = {name: envoy.read_serial() for name, envoy in scene.envoys.items()}

    def rotated() -> bool:
        return all(envoy.read_serial() != serials[name] for name, envoy in scene.envoys.items())

    scene.wait(rotated, "certificates rotate again", patience=2 * X509_SECONDS)
    tell.check("certificates rotate again", True, ", ".join(serials))
    asked = scene.wait(lambda: _passes(caller), "the gate lets the reporter through")
    tell.check("the gate gets its answers again", True, asked["status"])
    report = scene.read_traffic()
    failed = report["failed"] - before["failed"]
    tell.check(
        "no request failed meanwhile",
        failed == 0,
        f"{report['answered'] - before['answered']} answered, {failed} failed",
    )
    positions = [entry.position for entry in scene.read_journal(0)]
    tell.check(
        "the journal has no gap",
        positions == list(range(1, len(positions) + 1)) and len(positions) > head,
        f"positions 1–{len(positions)}, {head} of them from before the crash",
    )
    view = scene.api.call("status.show", status.GetStatus())
    tell.check("the server finds nothing wrong", view.ready and not view.findings, view.findings)
    step.facts.update(seconds_to_ready=round(seconds, 3), journal=len(positions))
