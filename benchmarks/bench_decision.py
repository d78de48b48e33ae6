"""Decisions a second, in process, on one core, none of them remembered.

Teams with roles, resources and policies, and 10,000 identities that ask about what is their own. Of
all rules five are about each question: a permit on a condition of the role, a permit by label, a
forbid of the network, one of the tier, and the environments that are kept apart. The reference, in
the same run, is cedarpy alone on those five as one would write them, parsed before, with requests
made before. Beside that: fewer policies, the slowest of a hundred, and answers remembered.
"""

from __future__ import annotations

import gc
import random
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from typing import Any

import cedarpy
import msgspec

from benchmarks.report import print_rates, say
from troth.live.judge import Judge
from troth.policy.decision import Question, decide
from troth.policy.inquiry import Inquiry, Party, make_question
from troth.policy.policy import Policy
from troth.policy.resource import Binding, Resource, TokenFormat, TokenTerms
from troth.policy.role import Permission, Role
from troth.policy.rule import EVERYBODY, IDENTITY, Effect, Principal, Subjects
from troth.policy.rulebook import RuleBook, make_rule_book

NOW = datetime(2026, 11, 20, 9, 30, tzinfo=UTC)
TERMS = TokenTerms(TokenFormat.JWT, "ES256", timedelta(minutes=5), Binding.NONE)
SIZES = (10, 1_000, 10_000, 100_000)
IDENTITIES = 10_000
RESOURCES_A_TEAM = 10
RULES_A_RESOURCE = 5
QUESTIONS = 5_000
RUNS = 7
LEAST, LEAST_CACHED, FLAT = 0.6, 500_000, 0.2


@dataclass(frozen=True, slots=True)
class Case:
    """One question, as a point asks it and as the engine gets it, and Cedar's own request."""

    party: Party
    inquiry: Inquiry
    question: Question
    request: dict[str, Any]
    policies: cedarpy.PolicySet
    entities: cedarpy.Entities


def main() -> None:
    """Measure, and print one JSON object as the last line."""
    detail: dict[str, Any] = {}
    measured: dict[int, float] = {}
    rates: list[float] = []
    references: list[float] = []
    for size in SIZES:
        book, cases = make_world(size)
        questions = [case.question for case in cases]
        check(book, cases)
        gc.collect()
        gc.freeze()
        rates, references = measure_pair(book, cases)
        measured[size] = statistics.median(rates)
        ratio = measured[size] / statistics.median(references)
        say(f"{size:,} policies: {measured[size]:,.0f}/s, {ratio:.2f} of cedarpy alone")
        detail[f"rate_{size}"] = round(measured[size])
        detail[f"ratio_{size}"] = round(ratio, 3)
        if size == SIZES[-1]:
            detail["p99_us"] = round(measure_slowest(book, questions), 1)
            detail["cached"] = round(measure_cached(book, cases))
            detail["rules"] = len(book.index.rules)
        gc.unfreeze()
    # Ratios, since what else the machine does is in both.
    ratios = [detail[f"ratio_{size}"] for size in SIZES]
    detail["flat"] = round(1 - min(ratios) / max(ratios), 3)
    print_rates(
        "decision",
        rates,
        references,
        least=LEAST,
        reference_is="cedarpy alone on the five policies, parsed and rendered before",
        flat_target=FLAT,
        cached_target=LEAST_CACHED,
        identities=IDENTITIES,
        **detail,
    )


def make_world(size: int) -> tuple[RuleBook, list[Case]]:
    """Rules of which `size` or so are policies and permissions, and questions."""
    count = max(1, size // RULES_A_RESOURCE)
    teams = max(1, count // RESOURCES_A_TEAM)
    resources = [make_resource(number, number % teams) for number in range(count)]
    roles = [
        Role(
            f"team-{team}",
            {},
            "o",
            "p",
            (),
            tuple(
                Permission(one.name, ("read", "write"), ({"trust.score": {"atLeast": 40}},))
                for one in resources[team::teams]
            ),
        )
        for team in range(teams)
    ]
    policies = [policy for one in resources for policy in make_policies(one)]
    book = make_rule_book(1, roles, resources, policies)
    assert not book.mistakes, book.mistakes[:3]
    chance = random.Random(size)
    parties = [make_party(book, number, teams) for number in range(IDENTITIES)]
    shared: dict[str, cedarpy.PolicySet] = {}
    cases = []
    for _ in range(QUESTIONS):
        number = chance.randrange(IDENTITIES)
        resource = chance.choice(resources[number % teams :: teams])
        cases.append(make_case(book, parties[number], resource, chance, shared))
    return book, cases


def make_resource(number: int, team: int) -> Resource:
    """A resource of a team, in production."""
    return Resource(
        f"r-{number}",
        {"team": f"team-{team}"},
        f"team-{team}",
        "p",
        (),
        (),
        {"read": "Read", "write": "Write"},
        (),
        TERMS,
        type="record",
        pattern=f"r-{number}",
        environment="prod",
    )


def make_policies(resource: Resource) -> list[Policy]:
    """A permit by label, and what is forbidden."""
    here = (resource.name,)
    number = resource.name.removeprefix("r-")
    team = Subjects(roles=(resource.owner,))

    def make(kind: str, effect: Effect, subjects: Subjects, when: dict[str, Any]) -> Policy:
        return Policy(f"{kind}-{number}", {}, "o", "p", effect, subjects, ("read",), here, (when,))

    return [
        make("label", Effect.PERMIT, team, {"identity.labels.team": {"sameAs": "resource.owner"}}),
        make("network", Effect.FORBID, EVERYBODY, {"request.ip": {"notIn": ["10.0.0.0/8"]}}),
        make("tier", Effect.FORBID, EVERYBODY, {"trust.tier": "low"}),
    ]


def make_party(book: RuleBook, number: int, teams: int) -> Party:
    """An identity of a team, as a server knows it."""
    name, team = f"service-{number}", f"team-{number % teams}"
    return Party(
        Principal(IDENTITY, name, book.expand((team,))),
        {
            "identity": {
                "name": name,
                "spiffe_id": f"spiffe://example.org/{name}",
                "kind": "service",
                "owner": team,
                "state": "active",
                "assurance": "medium",
                "environment": "prod" if number % 10 else "dev",
                "labels.team": team,
            },
            "trust": {"score": 30 + number % 70, "tier": "medium" if number % 7 else "low"},
            "grant": {"roles": ()},
            "subject": {"type": IDENTITY, "id": name},
        },
    )


def make_case(
    book: RuleBook,
    party: Party,
    resource: Resource,
    chance: random.Random,
    shared: dict[str, cedarpy.PolicySet],
) -> Case:
    """A question about one of a team's resources."""
    address = f"{chance.choice((10, 10, 10, 192))}.1.2.{chance.randrange(250)}"
    told = {"request": {"ip": ip_address(address), "method": "GET", "path": "/"}}
    inquiry = Inquiry("read", "record", resource.name, told)
    identity, trust = party.facts["identity"], party.facts["trust"]
    context = {
        "identity": {
            "environment": identity["environment"],
            "labels": {"team": identity["labels.team"]},
        },
        "trust": trust,
        "request": {"ip": {"__extn": {"fn": "ip", "arg": address}}},
        "resource": {"owner": resource.owner},
    }
    uid = {"type": "Identity", "id": party.principal.id}
    role = {"type": "Role", "id": resource.owner}
    if resource.name not in shared:
        shared[resource.name] = cedarpy.PolicySet.from_str(write_by_hand(resource))
    return Case(
        party,
        inquiry,
        make_question(book, resource, inquiry, party),
        {
            "principal": uid,
            "action": {"type": "Action", "id": f"{resource.name}/read"},
            "resource": {"type": "Resource", "id": resource.name},
            "context": msgspec.json.encode(context).decode(),
        },
        shared[resource.name],
        cedarpy.Entities.from_json_str(
            msgspec.json.encode([{"uid": uid, "attrs": {}, "parents": [role]}]).decode()
        ),
    )


def write_by_hand(resource: Resource) -> str:
    """The five rules about a resource, as one would write them in Cedar."""
    role, action = f'Role::"{resource.owner}"', f'Action::"{resource.name}/read"'
    here = f'resource == Resource::"{resource.name}"'
    return f"""
permit (principal in {role}, action == {action}, {here})
when {{ context.trust has score && context.trust.score >= 40 }};
permit (principal in {role}, action == {action}, {here})
when {{
  context.identity.labels has team && context.resource has owner &&
  context.identity.labels.team == context.resource.owner
}};
forbid (principal, action == {action}, {here})
unless {{ context.request has ip && context.request.ip.isInRange(ip("10.0.0.0/8")) }};
forbid (principal, action == {action}, {here})
unless {{ context.trust has tier && context.trust.tier != "low" }};
forbid (principal, action, {here})
when {{ context.identity has environment && context.identity.environment != "prod" }};
"""


def check(book: RuleBook, cases: Sequence[Case]) -> None:
    """Both say the same, and both answers occur; and all is made that is made once."""
    allowed = 0
    for case in cases:
        found = decide(book.index, case.question, NOW)
        alone = cedarpy.is_authorized(case.request, case.policies, case.entities)
        assert found.allowed is alone.allowed, case.inquiry
        assert found.slice is not None
        assert len(found.slice.rules) == RULES_A_RESOURCE
        allowed += found.allowed
    assert 0.2 < allowed / len(cases) < 0.8, allowed


def measure_pair(book: RuleBook, cases: Sequence[Case]) -> tuple[list[float], list[float]]:
    """Answers a second of the engine and of Cedar alone, in turns."""
    index = book.index
    rates, references = [], []
    for _ in range(RUNS):
        start = time.process_time()
        for case in cases:
            decide(index, case.question, NOW)
        middle = time.process_time()
        for case in cases:
            cedarpy.is_authorized(case.request, case.policies, case.entities)
        end = time.process_time()
        rates.append(len(cases) / (middle - start))
        references.append(len(cases) / (end - middle))
    return rates, references


def measure_slowest(book: RuleBook, questions: Sequence[Question]) -> float:
    """Microseconds within which 99 of 100 are answered."""
    clock: Callable[[], int] = time.perf_counter_ns
    taken = []
    for question in questions:
        start = clock()
        decide(book.index, question, NOW)
        taken.append((clock() - start) / 1000)
    return statistics.quantiles(taken, n=100)[98]


def measure_cached(book: RuleBook, cases: Sequence[Case]) -> float:
    """Answers a second of a judge that was asked all of it before."""
    judge = Judge()
    for case in cases:
        judge.judge(book, case.party, case.inquiry, NOW)
    best = []
    for _ in range(RUNS):
        start = time.process_time()
        for case in cases:
            judge.judge(book, case.party, case.inquiry, NOW)
        best.append(len(cases) / (time.process_time() - start))
    return statistics.median(best)


if __name__ == "__main__":
    main()
