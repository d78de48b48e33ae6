"""The chapter of access tokens: what a process may do, for whom it does it, and how that ends."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from troth.cli.demonstration.narration import Narrator, Step
from troth.cli.demonstration.opening import compose_manifest
from troth.cli.demonstration.scene import Scene
from troth.core.errors import Unavailable
from troth.wire.api import identities

ORDERS = "https://orders.example.org"
PAYMENTS = "https://payments.example.org"

PROMISE = 0.25
"""Seconds after the record of a quarantine, from when on no token of that identity counts."""

CALLS = 5
"""How many answered, and later refused, calls show that it isn't chance."""

PROGRAMS = ("client", "orders-api", "payments-api")

PLACES = {
    "orders": "the orders API (SDK)",
    "payments": "the payments API (SDK)",
    "introspection": "the introspection endpoint",
}
"""Where the reporter's token is shown without pause."""

REASON = "it reads orders at night"

MANIFEST = """\
apiVersion: troth/v1
kind: Resource
metadata: {{name: orders}}
spec:
  owner: demo@example.org
  purpose: what was ordered
  identifiers: [{orders}]
  servers: [{orders_server}]
  actions: {{read: See orders, cancel: Cancel an order}}
  passesTo: [payments]
  token: {{binding: mtls}}
---
apiVersion: troth/v1
kind: Resource
metadata: {{name: payments}}
spec:
  owner: demo@example.org
  purpose: what was paid
  identifiers: [{payments}]
  servers: [{payments_server}]
  actions: {{see: See payments, refund: Give money back}}
  token: {{binding: mtls}}
---
apiVersion: troth/v1
kind: Role
metadata: {{name: bookkeeper}}
spec:
  owner: demo@example.org
  purpose: looks at everything and changes nothing
  permissions:
    - {{resource: orders, actions: [read]}}
    - {{resource: payments, actions: [see]}}
---
apiVersion: troth/v1
kind: Role
metadata: {{name: order-desk}}
spec:
  owner: demo@example.org
  purpose: what the orders API does with payments
  permissions:
    - {{resource: payments, actions: [see, refund]}}
"""


def apply_roles(scene: Scene, step: Step) -> None:
    """Resources and roles; then two APIs and a client as processes of their own."""
    tell = scene.narrator
    orders, payments = (scene.find_worker(name).name for name in ("orders", "payments"))
    folder = scene.stage.folder
    text = MANIFEST.format(
        orders=ORDERS, payments=PAYMENTS, orders_server=orders, payments_server=payments
    )
    roles = scene.notes["roles"] = {"reporter": ["bookkeeper"], orders: ["order-desk"]}
    (folder / "roles.yaml").write_text(text, encoding="utf-8")
    (folder / "identities.yaml").write_text(compose_manifest(scene, roles), encoding="utf-8")
    tell.type(f"cat {folder / 'roles.yaml'}")
    tell.quote(text, most=60)
    for name, held in roles.items():
        tell.say(f"in identities.yaml, {name} has roles: [{', '.join(held)}]")
    paths = (folder / "roles.yaml", folder / "identities.yaml")
    tell.type(f"troth apply {paths[0]} {paths[1]}")
    done = scene.run_troth("apply", *paths, "--yes")
    told = (done.stdout + done.stderr).splitlines()
    # What they add stands above.
    tell.quote("\n".join(line for line in told if line[:1] != " " or "roles:" in line))
    tell.check("the manifests are applied", done.returncode == 0, f"exit code {done.returncode}")
    again = scene.run_troth("plan", *paths, "--json")
    actions = [change["action"] for change in json.loads(again.stdout)["changes"]]
    tell.check(
        "what is there is what they say",
        len(actions) >= 7 and set(actions) == {"keep"},
        f"{len(actions)} documents, nothing left to change",
    )
    port = _start_api(scene, "payments", PAYMENTS, orders)
    peer = ("--peer", scene.name(payments), "--peer-resource", PAYMENTS)
    address = ("--peer-url", f"https://127.0.0.1:{port}")
    port = _start_api(scene, "orders", ORDERS, "reporter", *peer, *address)
    _start_client(scene, orders, port)
    started = [f"{name} pid {scene.processes[name].pid}" for name in PROGRAMS]
    tell.say(f"Started: {', '.join(started)}. Each of them has its identity from the agent.")
    refused = _ask(scene, "client", "bare")
    tell.check(
        "without a token troth.sdk's middleware lets nobody in, and says where to get one",
        refused["status"] == 401 and refused.get("resource_metadata", "").startswith("https://"),
        f"GET /orders {refused['status']}, resource_metadata {refused.get('resource_metadata')}",
    )
    step.facts.update(documents=len(actions))


def _start_api(scene: Scene, service: str, resource: str, caller: str, *more: str) -> int:
    actor = scene.find_worker(service)
    command = [
        *scene.stage.compose(actor, "api", scene.stage.place_python(actor)),
        *_describe_servers(scene),
        *("--resource", resource, "--caller", scene.name(caller), *more),
    ]
    return int(scene.start(f"{service}-api", command).expect("ready")["port"])


def _start_client(scene: Scene, peer: str, port: int) -> None:
    actor = scene.stage["reporter"]
    command = [
        *scene.stage.compose(actor, "client", scene.stage.place_python(actor)),
        *_describe_servers(scene),
        *("--resource", ORDERS, "--peer", scene.name(peer)),
        *("--url", f"https://127.0.0.1:{port}"),
    ]
    scene.start("client", command).expect("ready")


def _describe_servers(scene: Scene) -> tuple[str, ...]:
    agent = f"unix://{scene.agent_socket}"
    return ("--agent", agent, "--server", scene.mutual_url, "--issuer", scene.url)


def call_api(scene: Scene, step: Step) -> None:
    """A token for an SVID; what it opens, and what no role permits."""
    tell = scene.narrator
    got = _ask(scene, "client", "token")
    claims = got["claims"]
    tell.say(
        "The reporter shows its X.509-SVID at the token endpoint: no client secret, no API key. "
        "Its token says (the signature stays with the reporter):"
    )
    _show_claims(tell, claims)
    tell.check(
        "the token is the reporter's, for orders alone, and permits what its role does",
        (claims["sub"], claims["aud"], claims["scope"]) == (scene.name("reporter"), ORDERS, "read"),
        f"scope {claims['scope']}",
    )
    bound = claims.get("cnf", {}).get("x5t#S256")
    tell.check(
        "it is bound to the reporter's certificate: worth nothing to a thief",
        bound == got["thumbprint"] != "",
        f"x5t#S256 {bound}",
    )
    called = _ask(scene, "client", "call")
    tell.check(
        "the orders API lets it in, and knows who it is",
        called["status"] == 200 and called["answer"]["subject"] == scene.name("reporter"),
        f"GET /orders {called['status']}, subject {called.get('answer', {}).get('subject')}",
    )
    refused = _ask(scene, "client", "cancel")
    tell.check(
        "what the token doesn't permit is refused (RFC 6750)",
        (refused["status"], refused.get("error")) == (403, "insufficient_scope"),
        f"POST /orders/cancelled {refused['status']} {refused.get('error')}: "
        f"{refused.get('error_description')}",
    )
    refused = _ask(scene, "client", "overreach")
    tell.check(
        "a token for what no role of it permits isn't given (RFC 6749)",
        refused["error"] == "invalid_scope",
        f"{refused['error']}: {refused['description']}",
    )
    step.facts.update(scope=claims["scope"], refused=refused["error"])


def pass_on(scene: Scene, step: Step) -> None:
    """The caller's token is exchanged; the next API sees for whom and who."""
    tell = scene.narrator
    tell.say(
        "The orders API needs to know what was paid. It exchanges the reporter's token for one "
        "of its own for payments (RFC 8693), and calls with that. The payments API saw:"
    )
    passed = _ask(scene, "client", "passed")
    seen = passed["answer"]["passed_on"]
    if seen["status"] != 200:
        raise Unavailable(f"The call wasn't passed on: {seen}.")
    claims, orders = seen["answer"]["claims"], scene.name(scene.find_worker("orders").name)
    _show_claims(tell, claims)
    tell.check(
        "the subject is the reporter, the actor is orders",
        seen["answer"]["subject"] == claims["sub"] == scene.name("reporter")
        and seen["answer"]["actors"] == [orders]
        and claims["act"] == {"sub": orders},
        f"sub {claims['sub']}, act {json.dumps(claims.get('act'))}",
    )
    tell.check(
        "orders may refund, the reporter may not: together they may only see",
        claims["scope"] == "see" and claims["aud"] == PAYMENTS,
        f"scope {claims['scope']}",
    )
    jti = passed["answer"]["claims"]["jti"]
    found = _ask(scene, "orders-api", "introspect")["tokens"][jti]
    tell.say("Whoever would rather ask than verify asks the server (RFC 7662). It tells orders:")
    _show_claims(tell, found, "active", "sub", "scope", "roles", "permitted_actions")
    tell.check(
        "introspection knows its roles and what they permit now",
        found["active"] is True
        and (found["roles"], found["permitted_actions"]) == (["bookkeeper"], ["read"]),
        f"roles {found.get('roles')}, permitted {found.get('permitted_actions')}",
    )
    step.facts.update(subject=claims["sub"], actors=seen["answer"]["actors"])


def cut_off(scene: Scene, step: Step) -> None:
    """From one call to the next, nothing opens any more."""
    tell = scene.narrator
    claims = scene.notes["token"] = _insist(scene)
    tell.say(
        "The reporter calls orders without pause. Orders asks the introspection endpoint about it, "
        "and acts for it at payments with a token that it got before."
    )
    tell.type(f'troth identity quarantine reporter --reason "{REASON}"')
    move = identities.MoveIdentity(name="reporter", reason=REASON)
    scene.api.call("identity.quarantine", move)
    recorded = scene.clock.monotonic()
    left = claims["exp"] - scene.clock.now().timestamp()
    scene.wait(lambda: _all_refuse(scene), "everything refuses the reporter")
    reports = _read_reports(scene)
    tell.say(f"Promised: {PROMISE * 1000:g} ms after the record no such call is answered any more.")
    for name, place in PLACES.items():
        facts = reports[name]
        late = facts["last_answered"] - recorded
        tell.check(
            f"{place} keeps it",
            late <= PROMISE,
            f"the last call that was answered began {describe_lag(late)}, the next "
            f"{describe_lag(facts['first_refused'] - recorded)}: {facts['reason']}",
        )
        step.facts[name] = round(late, 3)
    _check_reasons(scene, reports)
    tell.check(
        "it was the quarantine, not the token's end",
        left > 2 * PROMISE,
        f"the token had {left:.0f} s left",
    )
    refused = _ask(scene, "orders-api", f"exchange {claims['jti']}")
    tell.check(
        "and it is exchanged for nothing more (RFC 8693)",
        refused["error"] == "invalid_request",
        f"{refused['error']}: {refused['description']}",
    )


def _insist(scene: Scene) -> dict[str, Any]:
    """Have the token used everywhere, again and again; its claims."""
    claims: dict[str, Any] = _ask(scene, "client", "insist")["claims"]
    # The orders API knows a token from when it was first shown to it.
    scene.wait(lambda: _all_answer(scene), "the reporter calls orders")
    _ask(scene, "orders-api", f"insist {claims['jti']}")
    scene.wait(lambda: _all_answer(scene), "orders asks about the reporter, and acts for it")
    return claims


def _check_reasons(scene: Scene, reports: Mapping[str, Mapping[str, Any]]) -> None:
    tell = scene.narrator
    reporter = scene.name("reporter")
    words = f"{reporter} is quarantined."
    reasons = _ask(scene, "orders-api", f"judge {reporter}")["reasons"]
    tell.check("orders ends its connections, and can say why", words in reasons, " ".join(reasons))
    tell.check(
        "payments refuses the token (RFC 6750): not orders, who shows it, but its subject is out",
        reports["payments"]["reason"] == f"401 invalid_token {words}",
        reports["payments"]["reason"],
    )
    tell.check(
        "introspection says that it is over, and no more than that",
        reports["introspection"]["reason"] == '{"active": false}',
        reports["introspection"]["reason"],
    )


def _read_reports(scene: Scene) -> dict[str, dict[str, Any]]:
    told = _ask(scene, "orders-api", "report")
    found = {name: told[name] for name in PLACES if name in told}
    return {"orders": _ask(scene, "client", "report"), **found}


def _all_answer(scene: Scene) -> bool:
    return all(facts["answered"] >= CALLS for facts in _read_reports(scene).values())


def _all_refuse(scene: Scene) -> bool:
    return all(
        facts["refused"] >= CALLS and facts["first_refused"] > facts["last_answered"]
        for facts in _read_reports(scene).values()
    )


def describe_lag(seconds: float) -> str:
    """When something happened, from what was waited for."""
    return f"{abs(seconds) * 1000:.0f} ms {'before' if seconds < 0 else 'after'} it"


def let_back_in(scene: Scene, step: Step) -> None:
    """A release brings the identity back, and none of its tokens."""
    tell = scene.narrator
    old = scene.notes["token"]
    before = _read_reports(scene)
    tell.type('troth identity release reporter --reason "it was the night shift"')
    move = identities.MoveIdentity(name="reporter", reason="it was the night shift")
    scene.api.call("identity.release", move)
    began = scene.clock.monotonic()
    scene.wait(lambda: _works(scene), "the reporter calls orders again")
    seconds = scene.clock.monotonic() - began
    called = _ask(scene, "client", "call")
    new = called["answer"]["claims"]
    tell.check(
        "with a new token it is let in again",
        called["status"] == 200 and new["jti"] != old["jti"],
        f"{seconds:.2f} s after the release: jti …{new['jti'][-8:]} where …{old['jti'][-8:]} was",
    )

    def tried_again() -> bool:
        now = _read_reports(scene)
        return all(now[name]["refused"] >= before[name]["refused"] + CALLS for name in now)

    scene.wait(tried_again, "the old token is tried again everywhere")
    tokens = _ask(scene, "orders-api", "introspect")["tokens"]
    left = old["exp"] - scene.clock.now().timestamp()
    tell.check(
        "the introspection endpoint knows the new one, and the old one no more",
        tokens[new["jti"]]["active"] is True and tokens[old["jti"]] == {"active": False},
        f"old {json.dumps(tokens[old['jti']])}, new active {tokens[new['jti']]['active']}",
    )
    now = _read_reports(scene)
    tell.check(
        "the old one opened nothing since, at either API, whoever showed it",
        all(now[name]["answered"] == before[name]["answered"] for name in now),
        ", ".join(f"{name} refused it {facts['refused']} times" for name, facts in now.items())
        + f"; payments: {now['payments']['latest']}",
    )
    tell.check("although it hasn't expired", left > 0, f"it would have had {left:.0f} s left")
    for name in PROGRAMS:
        scene.company.stop(scene.processes[name])
    step.facts.update(seconds=round(seconds, 3))


def _works(scene: Scene) -> bool:
    told = scene.processes["client"].ask("call")
    return bool(told["ok"] and told["status"] == 200)


def _ask(scene: Scene, process: str, word: str) -> dict[str, Any]:
    """The answer of a program; raises `Unavailable` if it couldn't do it."""
    if process not in scene.processes:
        raise Unavailable(f"{process} wasn't started.")
    told = scene.processes[process].ask(word)
    if not told.get("ok"):
        raise Unavailable(f"{process} can't {word}: {told.get('error')}: {told.get('reason')}.")
    return told


def _show_claims(tell: Narrator, claims: Mapping[str, Any], *names: str) -> None:
    """Claims as lines; a token as a whole is never shown."""
    shown = names or tuple(claims)
    width = max(map(len, shown))
    tell.quote("\n".join(f"{name:{width}}  {json.dumps(claims.get(name))}" for name in shown))
