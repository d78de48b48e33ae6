"""The chapter of policy: who may do what stands in YAML, and is enforced before the application."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from troth.cli.demonstration.narration import Step
from troth.cli.demonstration.opening import compose_manifest
from troth.cli.demonstration.scene import GATE, Scene
from troth.cli.demonstration.tokens import describe_lag
from troth.core.errors import Unavailable
from troth.wire.api import decisions, manifests, trust
from troth.wire.authzen.question import Action, Entity, Question
from troth.wire.yaml import load_documents

HOST = "ledger.example.org"
ENTRY = "/ledger/7"
ROLE = "ledger-clerk"
QUESTION = ("reporter", "book", "ledger:7")
GAINED = "reporter gains book on ledger"
DENIED = "403 denied"

RULES_PROMISE = 1.0
"""Seconds after the answer to an apply, from when on the new rules decide each call."""

TRUST_PROMISE = 0.25
"""Seconds after the record of evidence, from when on the new score decides each call."""

CALLS = 5
"""How many refused, and later answered, calls show that it isn't chance."""

WEIGHT = -40
HALF_LIFE = 3600
REASON = "it books what nobody ordered"

BEFORE = "when: {identity.kind: service}"
AFTER = "when: {identity.kind: [service, job], trust.score: {atLeast: 60}}"

MANIFEST = """\
apiVersion: troth/v1
kind: Resource
metadata: {{name: ledger}}
spec:
  owner: demo@example.org
  purpose: what was booked
  identifiers: [https://{host}]
  servers: [payments]
  environment: demo
  sensitivity: high
  actions: {{read: See an entry, book: Change an entry}}
  hosts: [{host}]
  routes:
    - {{action: read, path: "/ledger/{{id}}", methods: [GET]}}
    - {{action: book, path: "/ledger/{{id}}", methods: [POST]}}
---
apiVersion: troth/v1
kind: Role
metadata: {{name: {role}}}
spec:
  owner: demo@example.org
  purpose: keeps the ledger
  permissions:
    - {{resource: ledger, actions: [read]}}
    - resource: ledger
      actions: [book]
      {when}
"""


def forbid(scene: Scene, step: Step) -> None:
    """A gate before an application that knows nothing of it: one call passes, one is denied."""
    tell = scene.narrator
    _apply_ledger(scene)
    port = _start_gate(scene)
    _start_caller(scene, port)
    passed = _ask(scene, "read")
    tell.check(
        "the reporter reads, with its SVID alone: no token, no password",
        (passed["status"], passed.get("answer", {}).get("caller")) == (200, scene.name("reporter")),
        f"GET {ENTRY} {passed['status']} {passed.get('answer', '')}",
    )
    denied = _ask(scene, "book")
    tell.check(
        "it may not book, and gets the number of the decision",
        (denied["status"], denied["reason"]) == (403, "denied")
        and denied["decision"].startswith("dec_"),
        f"POST {ENTRY} {denied['status']} {denied['reason']} {denied['decision']}",
    )
    _show_decision(scene, denied["decision"])
    missing = _explain(scene)
    tell.check("troth says what is missing", missing == "identity.kind being service", missing)
    step.facts.update(decision=denied["decision"], missing=missing)


def _apply_ledger(scene: Scene) -> None:
    tell, folder = scene.narrator, scene.stage.folder
    paths = (folder / "ledger.yaml", folder / "identities.yaml")
    text = MANIFEST.format(host=HOST, role=ROLE, when=BEFORE)
    held = scene.notes["roles"]
    roles = {**held, "reporter": [*held["reporter"], ROLE]}
    paths[0].write_text(text, encoding="utf-8")
    paths[1].write_text(compose_manifest(scene, roles), encoding="utf-8")
    tell.type(f"cat {paths[0]}")
    tell.quote(text)
    tell.say(f"in identities.yaml, reporter has roles: [{', '.join(roles['reporter'])}]")
    tell.type(f"troth apply {paths[0]} {paths[1]}")
    done = scene.run_troth("apply", *paths, "--yes")
    told = (done.stdout + done.stderr).splitlines()
    # What they add stands above.
    tell.quote("\n".join(line for line in told if line[:1] != " " or "roles:" in line))
    tell.check("the manifests are applied", done.returncode == 0, f"exit code {done.returncode}")


def _start_gate(scene: Scene) -> int:
    """An Envoy with what troth printed for it."""
    tell = scene.narrator
    tell.type("troth proxy envoy ledger")
    address = urlsplit(scene.mutual_url).netloc
    done = scene.run_troth("proxy", "envoy", "ledger", "--mutual", address)
    if done.returncode != 0:
        raise Unavailable(f"There is no configuration for the gate: {done.stderr.strip()}")
    lines = done.stdout.splitlines()
    tell.quote("\n".join(line for line in lines if line.startswith("#")))
    (document,) = load_documents(done.stdout.encode(), "troth proxy envoy")
    port = scene.start_gate("payments", document.value)
    tell.say(
        f"With that, a second Envoy of payments, pid {scene.processes[f'{GATE}-envoy'].pid}, "
        "stands before the application as a gate. It asks troth about each request, and lets "
        "nothing through without an answer. The application was not changed."
    )
    return port


def _start_caller(scene: Scene, port: int) -> None:
    actor = scene.stage["reporter"]
    command = [
        *scene.stage.compose(actor, "caller", scene.stage.place_python(actor)),
        *("--agent", f"unix://{scene.agent_socket}", "--server", scene.mutual_url),
        *("--peer", scene.name("payments"), "--url", f"https://127.0.0.1:{port}"),
        *("--host", HOST, "--path", ENTRY),
    ]
    scene.start("caller", command).expect("ready")


def _show_decision(scene: Scene, decision: str) -> None:
    """Who asked for what, as it was written down before the answer was given."""
    tell = scene.narrator
    tell.type(f"troth decision show {decision}")
    done = scene.run_troth("decision", "show", decision)
    tell.quote(done.stdout + done.stderr)
    shown = scene.api.call("decision.show", decisions.NameDecision(id=decision)).decision
    tell.check(
        "it is on record: who may not do what, and who asked about it",
        (shown.subject, shown.action, shown.resource_type, shown.resource_id, shown.allowed)
        == ("reporter", "book", "ledger", "7", False)
        and (shown.caller, shown.point) == (scene.name("payments"), "envoy"),
        f"{shown.subject} {shown.action} {shown.resource_type}:{shown.resource_id}",
    )
    tell.type(f"troth decision evaluate {' '.join(QUESTION)}")
    done = scene.run_troth("decision", "evaluate", *QUESTION)
    tell.quote(done.stdout + done.stderr)


def _explain(scene: Scene) -> str:
    """What would have to be so for the reporter to book."""
    who, what, about = QUESTION
    kind, _, which = about.partition(":")
    question = Question(Entity("identity", who), Action(what), Entity(kind, which))
    asked = decisions.EvaluateDecisions(questions=[question])
    context = scene.api.call("decision.evaluate", asked).evaluations[0].context
    return "; ".join(one.words for one in context.missing)


def change(scene: Scene, step: Step) -> None:
    """The rule is changed, checked and planned; from the apply on, the same call passes."""
    tell = scene.narrator
    path = scene.stage.folder / "ledger.yaml"
    _edit(scene, path)
    _run(scene, "check", path)
    found = [line for line in _run(scene, "plan", path).splitlines() if "access:" in line]
    tell.check(
        "the plan says whose access changes, and nobody else's does",
        len(found) == 1 and GAINED in found[0],
        " ".join(found),
    )
    _ask(scene, "insist")
    before = scene.wait(lambda: _settle(scene, "refused", 0), "the reporter tries to book")
    tell.say("The reporter tries to book without pause, and is denied.")
    tell.type(f"troth apply {path} --yes")
    documents = [
        manifests.ManifestDocument(value=one.value, source=one.source, line=one.line)
        for one in load_documents(path.read_bytes(), str(path))
    ]
    applied = scene.api.call("manifest.apply", manifests.SubmitManifests(documents=documents))
    recorded = scene.clock.monotonic()
    tell.check(
        "what was planned is done",
        applied.applied and GAINED in " ".join(one.words for one in applied.access),
        "; ".join(one.words for one in applied.access),
    )
    tell.check("no call passed before", before["answered"] == 0, f"{before['refused']} denied")
    step.facts.update(seconds=_measure(scene, "answered", recorded, RULES_PROMISE))


def _run(scene: Scene, verb: str, path: Path) -> str:
    tell = scene.narrator
    tell.type(f"troth {verb} {path}")
    done = scene.run_troth(verb, path)
    tell.quote(done.stdout + done.stderr)
    tell.check(f"troth {verb} agrees", done.returncode == 0, f"exit code {done.returncode}")
    return done.stdout


def _edit(scene: Scene, path: Path) -> None:
    tell = scene.narrator
    before = path.read_text(encoding="utf-8")
    after = before.replace(BEFORE, AFTER)
    path.write_text(after, encoding="utf-8")
    tell.say(f"In {path} a job may book too from now on, while it is trusted:")
    lines = difflib.unified_diff(before.splitlines(), after.splitlines(), n=2, lineterm="")
    tell.quote("\n".join(line for line in lines if line[:2] not in ("--", "++", "@@")))


def doubt(scene: Scene, step: Step) -> None:
    """Evidence against the reporter counts at once, and no longer once it is withdrawn."""
    tell = scene.narrator
    view = scene.api.call("trust.show", trust.NameTrust(name="reporter"))
    tell.say(f"The reporter has a trust score of {view.score}. Somebody reports what it did:")
    tell.type(f'troth trust add reporter --weight {WEIGHT} --half-life 1h --reason "{REASON}"')
    evidence = trust.AddEvidence(name="reporter", weight=WEIGHT, half_life=HALF_LIFE, reason=REASON)
    added = scene.api.call("trust.add", evidence)
    recorded = scene.clock.monotonic()
    denied = _measure(scene, "refused", recorded, TRUST_PROMISE)
    missing = _explain(scene)
    tell.check(
        "troth says what is missing now",
        "trust.score ≥ 60" in missing and added.trust.score < 60 <= view.score,
        f"{missing}; the score is {added.trust.score}",
    )
    tell.type(f'troth trust withdraw {added.id} --reason "it was ordered by telephone"')
    withdraw = trust.WithdrawEvidence(id=added.id, reason="it was ordered by telephone")
    again = scene.api.call("trust.withdraw", withdraw)
    recorded = scene.clock.monotonic()
    passed = _measure(scene, "answered", recorded, TRUST_PROMISE)
    tell.check("the score is what it was", again.score == view.score, again.score)
    _ask(scene, "rest")
    step.facts.update(denied=denied, passed=passed)


_OTHER = {"answered": "refused", "refused": "answered"}
_WORDS = {"answered": "passes", "refused": "is denied"}


def _measure(scene: Scene, outcome: str, recorded: float, promise: float) -> float:
    """Check that from `promise` seconds after `recorded` on every call has this outcome; returns
    the seconds after which the last call began that had the other."""
    began = _ask(scene, "report")[outcome]
    report = scene.wait(lambda: _settle(scene, outcome, began), f"the call {_WORDS[outcome]}")
    late: float = report[f"last_{_OTHER[outcome]}"] - recorded
    seen = report["reason"] if outcome == "refused" else "200"
    scene.narrator.check(
        f"booking {_WORDS[outcome]} within {promise * 1000:g} ms of the answer to that",
        late <= promise and seen in (DENIED, "200"),
        f"the last call that went otherwise began {describe_lag(late)}, the next "
        f"{describe_lag(report[f'first_{outcome}'] - recorded)}: {seen}",
    )
    return round(late, 3)


def _settle(scene: Scene, outcome: str, before: int) -> dict[str, Any] | None:
    """What became of the calls, once `CALLS` more have this outcome and the latest ones have."""
    report = _ask(scene, "report")
    turned = report[f"first_{outcome}"] > report[f"last_{_OTHER[outcome]}"]
    return report if turned and report[outcome] >= before + CALLS else None


def _ask(scene: Scene, word: str) -> dict[str, Any]:
    """The answer of the caller; raises `Unavailable` if it couldn't ask."""
    if "caller" not in scene.processes:
        raise Unavailable("The caller wasn't started.")
    told = scene.processes["caller"].ask(word)
    if not told.get("ok"):
        raise Unavailable(f"The caller can't {word}: {told.get('error')}: {told.get('reason')}.")
    return told
