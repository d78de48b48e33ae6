"""The enforcer of a service: decides in this process who may do what with its resources.

A thread with an event loop of its own follows the rules about what the service serves, and reports
what was decided. Questions are answered from memory, in any thread, with the server or without it,
until nothing was heard for longer than the lease.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import threading
from collections.abc import Callable, Collection, Mapping
from contextlib import aclosing
from datetime import datetime
from pathlib import Path
from typing import Any

from troth.core.clock import Clock, SystemClock
from troth.core.entropy import Entropy, SystemEntropy, fraction
from troth.core.errors import Internal, Invalid, NotFound, TrothError, Unavailable
from troth.core.ids import SpiffeId
from troth.live.judge import Judge, Judgement
from troth.live.parties import KnownParty
from troth.live.policies import KnownRules, Policies
from troth.policy.decision import Decision
from troth.policy.explanation import Explanation, explain
from troth.policy.inquiry import Inquiry, Party, make_outside_party
from troth.policy.rule import IDENTITY
from troth.policy.rulebook import RuleBook
from troth.sdk.access import NOTHING_TOLD, AccessDecision, Subject, Told
from troth.sdk.background import Background
from troth.sdk.following import FIRST_WAIT, LONGEST_WAIT, SERVER_PATH
from troth.sdk.guard import PeerGuard
from troth.sdk.permission import Arguments, P, Permission, R
from troth.sdk.reporting import Made, Reporter
from troth.sdk.spool import FileSpool, MemorySpool, Spool
from troth.sdk.stream import ApiLine, follow
from troth.sdk.tls import Pair, make_api_context
from troth.wire.api.rules import (
    AskParty,
    DecisionsReported,
    FollowPolicies,
    PartyView,
    ReportDecisions,
)

log = logging.getLogger("troth.sdk")

ASK_SECONDS = 2.0
"""How long a question waits for what is asked of the server about who asks."""
PAIR_SECONDS = 0.05
MOST_ASKS = 3
MOST_STRANGERS = 10_000
STRANGER_SECONDS = 5.0
"""For how long it is remembered that the server knows somebody not."""

UNKNOWN = "The subject is no identity that the rules here could permit anything."


class Enforcer(Background):
    """Decides about the resources that this service serves.

    `guard` says who this service is and whom to refuse; it is started and closed along, unless it
    was started before. `resources` names those that this process is for (else all that the service
    serves); `lease` in seconds shortens the server's. `spool` is a folder of the service's own,
    where decisions wait to be reported; without one they wait in memory, and end with the process.

    Use it in ``with``, or call `start` and `close`. Nothing is permitted before the rules were
    heard, nor once nothing was heard for longer than the lease.
    """

    def __init__(
        self,
        guard: PeerGuard,
        *,
        resources: Collection[str] = (),
        lease: float | None = None,
        spool: Path | str | None = None,
        clock: Clock | None = None,
        entropy: Entropy | None = None,
    ) -> None:
        super().__init__("troth-enforcer")
        if isinstance(resources, str):
            raise Invalid("Name resources as a collection, such as ['ledger'].")
        if lease is not None and lease <= 0:
            raise Invalid("A lease is a number of seconds above 0.")
        self.guard = guard
        self._resources = ",".join(sorted(resources))
        self._clock = clock or SystemClock()
        self._entropy = entropy or SystemEntropy()
        self._policies = Policies(self._clock, lease)
        self._judge = Judge()
        self._turn = threading.Lock()
        self._ready = threading.Event()
        self._problem = "Nothing went wrong yet; give it more time."
        self._owns_guard = False
        self._line: tuple[Pair, str, ApiLine] | None = None
        self._server = 0
        self._strangers: dict[str, float] = {}
        self._ids = f"dec_{self._entropy.token(12).hex()}"
        self._numbers = itertools.count()
        made: Spool = MemorySpool() if spool is None else FileSpool(Path(spool), self._entropy)
        self.reporter = Reporter(made)
        """Counts what was reported and what was lost."""

    # Its life

    def start(self) -> None:
        """Begin; once."""
        if not self.guard.started:
            self._owns_guard = True
            self.guard.start()
        super().start()

    def close(self) -> None:
        """End it: what was decided is kept, and reported if a server is there."""
        super().close()
        if self._owns_guard:
            self.guard.close()

    def wait_ready(self, seconds: float = 30.0) -> None:
        """Wait for the certificate, whom to refuse, and the rules; raises `Unavailable`."""
        until = self._clock.monotonic() + seconds
        self.guard.wait_ready(seconds)
        if not self._ready.wait(max(0.0, until - self._clock.monotonic())):
            raise Unavailable(f"The enforcer isn't ready after {seconds:.0f} s. {self._problem}")

    @property
    def age(self) -> float:
        """Seconds since the rules were certainly true; infinite before the first word."""
        return self._policies.age

    @property
    def epoch(self) -> int:
        """Up to where in the server's journal everything is known here."""
        return self._policies.epoch

    @property
    def known(self) -> KnownRules | None:
        """The rules and parties as they are known; None before the first word."""
        return self._policies.known

    # Deciding

    def decide(
        self,
        subject: str | Subject,
        action: str,
        resource: str,
        id: str = "",
        told: Told = NOTHING_TOLD,
        *,
        request_id: str = "",
    ) -> AccessDecision:
        """Whether `subject` (a SPIFFE ID, an identity's name, or somebody of a declared type) may
        do `action` to the thing of type `resource` with that id; `told` are facts of the request.

        Blocks for up to `ASK_SECONDS` where the rules mean more identities than are told of, and
        this one wasn't asked about before: in an event loop use `decide_async`.
        """
        if isinstance(subject, str) and self._is_unknown(subject):
            self._ask_and_wait(subject)
        return self._decide(subject, Inquiry(action, resource, id, told), request_id)

    async def decide_async(
        self,
        subject: str | Subject,
        action: str,
        resource: str,
        id: str = "",
        told: Told = NOTHING_TOLD,
        *,
        request_id: str = "",
    ) -> AccessDecision:
        """As `decide`, without blocking the event loop."""
        if isinstance(subject, str) and self._is_unknown(subject):
            await asyncio.to_thread(self._ask_and_wait, subject)
        return self._decide(subject, Inquiry(action, resource, id, told), request_id)

    def permit(
        self,
        action: str,
        resource: str,
        id: Callable[[Arguments], str] | str = "",
        *,
        subject: Callable[[Arguments], str | Subject] | None = None,
        properties: Callable[[Arguments], Mapping[str, Any]] | None = None,
    ) -> Callable[[Callable[P, R]], Callable[P, R]]:
        """A decorator: the function is called only by who may do `action`; else `AccessDenied`.

        `id`, `subject` and `properties` (of the resource) are found from the function's arguments
        by their names. Without `subject`, whoever the middleware knows as the asker is meant, and
        nobody else may.
        """

        return Permission(self, action, resource, id, subject, properties).decorate

    def _decide(self, subject: str | Subject, inquiry: Inquiry, request_id: str) -> AccessDecision:
        now, known = self._clock.now(), self._policies.known
        objection = self._policies.find_objection()
        name = (IDENTITY, subject) if isinstance(subject, str) else (subject.type, subject.id)
        if objection or known is None:
            return self._answer(_refuse(objection), name, inquiry, request_id, now, gone=True)
        if isinstance(subject, Subject) and subject.type != IDENTITY:
            judgement = self._judge_outside(known.book, subject, inquiry, now)
        else:
            party = known.parties.find(name[1])
            if party is None:
                return self._answer(_refuse(UNKNOWN), name, inquiry, request_id, now)
            refused = self.guard.check_id(str(party.identity.spiffe_id))
            if not refused.allowed:
                reason = " ".join(refused.reasons)
                gone = self.guard.stale
                return self._answer(_refuse(reason), name, inquiry, request_id, now, gone=gone)
            name = (IDENTITY, party.identity.name)
            judgement = self._judge_identity(known.book, party, inquiry, now)
        found = judgement.resource
        if found is not None and found.name not in known.served:
            judgement = _refuse(
                f"Resource {found.name} isn't served here, so the rules about it aren't known."
            )
        return self._answer(judgement, name, inquiry, request_id, now)

    def _judge_identity(
        self, book: RuleBook, party: KnownParty, inquiry: Inquiry, now: datetime
    ) -> Judgement:
        with self._turn:
            return self._judge.judge(book, party.make(book, now), inquiry, now)

    def _judge_outside(
        self, book: RuleBook, subject: Subject, inquiry: Inquiry, now: datetime
    ) -> Judgement:
        with self._turn:
            made: Party = make_outside_party(book, subject.type, subject.id, subject.properties)
            return self._judge.decide(book, made, inquiry, now)

    def _answer(
        self,
        judgement: Judgement,
        name: tuple[str, str],
        inquiry: Inquiry,
        request_id: str,
        now: datetime,
        *,
        gone: bool = False,
    ) -> AccessDecision:
        id_ = f"{self._ids}{next(self._numbers):012x}"
        epoch = self._policies.epoch
        self.reporter.put(Made(id_, now, request_id, name[0], name[1], inquiry, judgement, epoch))
        return AccessDecision(judgement.allowed, id_, judgement, gone, self._explain)

    def _explain(self, judgement: Judgement) -> Explanation:
        known = self._policies.known
        if known is None:
            return Explanation("Nothing is known of the question.")
        with self._turn:
            return explain(known.book, judgement.decision, self._clock.now())

    # Who isn't told of

    def _is_unknown(self, subject: str) -> bool:
        known = self._policies.known
        if known is None or known.parties.complete or known.parties.find(subject) is not None:
            return False
        return self._clock.monotonic() >= self._strangers.get(subject, 0.0)

    def _ask_and_wait(self, subject: str) -> None:
        loop = self._loop
        if loop is None:
            return
        asked = asyncio.run_coroutine_threadsafe(self._ask_party(subject), loop)
        try:
            asked.result(ASK_SECONDS)
        except (TrothError, TimeoutError) as error:
            log.debug("%s isn't known: %s", subject[:200], error)
            asked.cancel()

    async def _ask_party(self, subject: str) -> None:
        if len(subject) > 2048 or not subject:
            return
        for _ in range(MOST_ASKS):
            known = self._policies.known
            if known is None:
                return
            told = known.parties.told
            try:
                view: PartyView = await self._call("policy.party", AskParty(subject=subject))
            except NotFound:
                if len(self._strangers) >= MOST_STRANGERS:
                    self._strangers.clear()
                self._strangers[subject] = self._clock.monotonic() + STRANGER_SECONDS
                return
            # Else the stream may have told meanwhile that it is different by now.
            if known is self._policies.known and told == known.parties.told:
                known.parties.put(view)
                return

    # What the thread does

    async def _follow(self) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._keep_following())
                group.create_task(self.reporter.run(self._report))
        finally:
            await self.reporter.finish(self._report)
            self._hang_up()

    async def _keep_following(self) -> None:
        tries, told = 0, ""
        while True:
            before = self._policies.epoch
            try:
                await self._follow_server()
            except TrothError as error:
                level = logging.DEBUG if told == error.detail else logging.WARNING
                log.log(level, "%s", error.detail)
                told = self._problem = error.detail
            except Exception as error:
                # Whatever it is, the lease must be the only thing that ends what may be done.
                self._problem = f"Something unexpected: {type(error).__name__}."
                log.exception("following the rules broke")
            else:
                continue
            tries = 0 if self._policies.epoch > before else min(tries + 1, 10)
            delay = min(LONGEST_WAIT, FIRST_WAIT * 2**tries)
            await asyncio.sleep(delay * (0.5 + fraction(self._entropy) / 2))

    async def _follow_server(self) -> None:
        pair = await self._wait_pair()
        url, context = self._choose(pair)
        policies = self._policies
        request = FollowPolicies(
            resources=self._resources,
            after=policies.epoch,
            mark=policies.mark,
            rules=policies.digest,
        )
        # Earlier than the request: what it takes to connect shortens the lease, never lengthens it.
        asked = self._clock.monotonic()
        try:
            async with aclosing(follow(url, context, "policy.follow", request)) as values:
                async for value in values:
                    policies.take(value, asked)
                    self._ready.set()
                    if self.guard.pair is not pair:
                        return  # once more, with the new certificate
        except Internal:
            policies.forget_place()
            raise
        except TrothError:
            self._server += 1
            raise

    async def _wait_pair(self) -> Pair:
        while (pair := self.guard.pair) is None:  # noqa: ASYNC110 - it comes from another loop
            await asyncio.sleep(PAIR_SECONDS)
        return pair

    def _choose(self, pair: Pair) -> tuple[str, Any]:
        servers = self.guard.servers
        domain = SpiffeId.parse(self.guard.spiffe_id).trust_domain
        context = make_api_context(pair, str(SpiffeId.of(domain, SERVER_PATH)))
        return servers[self._server % len(servers)], context

    async def _report(self, report: ReportDecisions) -> DecisionsReported:
        answer: DecisionsReported = await self._call("decision.report", report)
        return answer

    async def _call(self, name: str, request: Any) -> Any:
        """Call an operation at the server whose rules are followed."""
        pair = self.guard.pair
        if pair is None:
            raise Unavailable("There is no certificate yet to ask a server with.")
        url, context = self._choose(pair)
        if self._line is None or self._line[0] is not pair or self._line[1] != url:
            self._hang_up()
            self._line = (pair, url, ApiLine(url, context))
        return await self._line[2].call(name, request)

    def _hang_up(self) -> None:
        if self._line is not None:
            self._line[2].close()
            self._line = None


def _refuse(reason: str) -> Judgement:
    return Judgement(Decision(False, (), None), None, reason)
