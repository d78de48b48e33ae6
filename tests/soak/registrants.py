"""What registers identities by itself under load: templates at first sight, and manifests."""

from __future__ import annotations

import random
import threading
from typing import Any

from tests.fakes.templates import describe_template, submit
from tests.soak.clients import Client
from troth.core.errors import TrothError
from troth.wire.api.identities import ListIdentities
from troth.wire.api.templates import SightWorkload

TEMPLATE = "soak"
FIRST_UID = 10_000
UIDS = 50_000
MEMBERS = 10
"""How many identities the manifests name at most."""


def describe_soak_template() -> dict[str, Any]:
    """The template of every workload that is met; one identity for each uid, whoever met it."""
    last = FIRST_UID + UIDS - 1
    return describe_template(
        TEMPLATE, match=[f"unix:uid:{FIRST_UID}-{last}"], naming="{uid}", nodes=["*"], max=UIDS
    )


class Sighter(Client):
    """Meets workloads, each twice at once and some of them again: one identity may come of it."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._met = 0
        self._turned_out = threading.Event()

    def round(self) -> None:
        if not self._met:
            self.admin.call("manifest.apply", submit(describe_soak_template()))
        if not self._met or self.random.random() < 0.3:
            self._met += 1
        # The newest most of all: whose registration a crash may have cut short.
        back = min(int(self.random.expovariate(0.3)), self._met - 1)
        uid = FIRST_UID + self._met - 1 - back
        _ = self.mutual  # becomes a node, once
        racers = [threading.Thread(target=self._sight, args=(uid,)) for _ in "ab"]
        for racer in racers:
            racer.start()
        for racer in racers:
            racer.join()
        if self._turned_out.is_set():
            self._turned_out.clear()
            self.pem.unlink(missing_ok=True)
            self.hang_up()
        self.pause(0.2 + self.random.random() * 0.4)

    def _sight(self, uid: int) -> None:
        selector = f"unix:uid:{uid}"
        try:
            with self.open_mutual(random.choice(self._servers)) as api:
                request = SightWorkload(selectors=[selector], pid=uid)
                found = api.call("identity.sight", request)
                self.ledger.note_sight(str(uid), found.identity_id)
                self.issue_over(api, [found.identity_id], selector)
        except TrothError as error:
            self.ledger.count_refusal(error.code)
            if error.code in ("permission_denied", "unauthenticated"):
                self._turned_out.set()


class Applier(Client):
    """Applies a set of manifests as a whole, other ones in each round, and prunes the rest.

    What is there says which round it is of, so that a mixture is seen, also by one who looks on.
    """

    def round(self) -> None:
        count = self.random.randint(MEMBERS // 2, MEMBERS)
        members = self.random.sample(range(MEMBERS), count)
        number = self.ledger.ask_manifests(f"member-{member}" for member in members)
        described = [describe_member(member, number) for member in members]
        # With the template: what is pruned is what no manifest names.
        request = submit(describe_soak_template(), *described, prune=True)
        answered = threading.Event()
        onlooker = threading.Thread(target=self._look_on, args=(answered,))
        onlooker.start()
        try:
            self.admin.call("manifest.apply", request)
            self.ledger.note_manifests(number)
        finally:
            answered.set()
            onlooker.join()
        self.pause(0.4 + self.random.random() * 0.4)

    def _look_on(self, answered: threading.Event) -> None:
        request = ListIdentities(text="member-", living=True)
        try:
            with random.choice(self._servers).open_admin() as admin:
                while not answered.is_set():
                    items = admin.call("identity.ls", request).items
                    problem = self.ledger.find_mixture((item.name, item.purpose) for item in items)
                    if problem:
                        self.ledger.complain(problem)
                    answered.wait(0.02)
        except TrothError as error:
            self.ledger.count_refusal(error.code)


def describe_member(member: int, number: int) -> dict[str, Any]:
    """The manifest of one identity in a round."""
    return {
        "apiVersion": "troth/v1",
        "kind": "Identity",
        "metadata": {"name": f"member-{member}"},
        "spec": {
            "kind": "service",
            "owner": "soak@example.org",
            "purpose": f"Round {number}",
            "selectors": [f"unix:uid:{2000 + member}"],
            "nodes": ["*"],
        },
    }
