"""Scores in memory: made again when they lapse, dropped when they change, and bounded."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from tests.fakes.identities import NOW, make_identity, make_spec
from troth.core.clock import VirtualClock
from troth.core.events import Event, SealedEvent
from troth.core.ids import EvidenceId, IdentityId
from troth.identity.client import Client, ClientKey
from troth.identity.identity import Identity, Kind
from troth.identity.selectors import Selector
from troth.live.snapshot import Seed, Snapshot
from troth.live.trust import Standings, describe_standing, rate_attestation
from troth.trust.evidence import Evidence
from troth.trust.score import Strength

ME = IdentityId("idn_1")
HOUR = timedelta(hours=1)
CLIENT = Client(keys=(ClientKey("one", b"key"),))


def make_evidence(number: int = 1, weight: int = -20, of: IdentityId = ME) -> Evidence:
    evidence_id = EvidenceId(f"evd_{number}")
    return Evidence(evidence_id, of, "ids", "scan", weight, HOUR, NOW, "strange", "uid:0")


def make_other(number: int) -> Identity:
    return make_identity(id=IdentityId(f"idn_{number}"))


def test_a_score_is_kept_until_it_may_change_by_itself() -> None:
    standings, identity = Standings(), make_identity()
    assert standings.find(identity, NOW) is None
    made = standings.remember(identity, (make_evidence(),), 0, NOW)
    assert made.value == 60 - 20
    assert standings.find(identity, NOW) is made
    assert standings.find(identity, made.valid_until - timedelta(microseconds=1)) is made
    later = standings.find(identity, made.valid_until)
    assert later is not None
    assert (later.value, later.points > made.points) == (40, True)
    half = standings.find(identity, NOW + HOUR)
    assert half is not None
    assert half.value == 50
    assert standings.find(identity, NOW) == made  # the clock was set back


def test_another_revision_is_rated_anew() -> None:
    standings, identity = Standings(), make_identity()
    standings.remember(identity, (), 0, NOW)
    changed = replace(identity, owner="", revision=2)
    found = standings.find(changed, NOW)
    assert found is not None
    assert found.value == 50


def test_what_was_read_before_a_change_is_not_kept() -> None:
    standings, identity = Standings(), make_identity()
    standings.remember(identity, (), 3, NOW)
    standings.drop(ME, 5)
    assert standings.find(identity, NOW) is None
    assert standings.remember(identity, (), 4, NOW).value == 60
    assert standings.find(identity, NOW) is None
    standings.remember(identity, (make_evidence(),), 5, NOW)
    assert standings.find(identity, NOW) is not None
    standings.clear(9)
    standings.remember(identity, (), 8, NOW)
    assert standings.find(identity, NOW) is None


def test_identities_and_evidence_are_bounded() -> None:
    standings = Standings(capacity=2, records=5)
    for number in (1, 2):
        standings.remember(make_other(number), (make_evidence(),), 0, NOW)
    assert standings.find(make_other(1), NOW) is not None  # asked for last
    standings.remember(make_other(3), (), 0, NOW)
    assert [standings.find(make_other(n), NOW) is None for n in (1, 2, 3)] == [False, True, False]
    five = tuple(make_evidence(n) for n in range(5))
    standings.remember(make_other(3), five, 0, NOW)  # takes all the room
    assert [standings.find(make_other(n), NOW) is None for n in (1, 3)] == [True, False]
    for number in range(4, 9):  # of changes the last are known, and all before count as changed
        standings.drop(IdentityId(f"idn_{number}"), number)
    standings.remember(make_other(9), (), 5, NOW)
    assert standings.find(make_other(9), NOW) is None


def test_the_journal_drops_it() -> None:
    clock, identity = VirtualClock(NOW), make_identity()
    snapshot = Snapshot(clock, timedelta(seconds=15))
    snapshot.load(Seed(epoch=0, cut_off={}, revoked={}))
    bodies = {
        "evidence.added": {"id": "evd_1", "identity_id": ME},
        "evidence.withdrawn": {"id": "evd_1", "identity_id": ME},
        "identity.changed": {"id": ME, "spiffe_id": str(identity.spiffe_id), "state": "active"},
    }
    for position, (kind, body) in enumerate(bodies.items(), 1):
        snapshot.trust.remember(identity, (), snapshot.epoch, NOW)
        assert snapshot.trust.find(identity, NOW) is not None
        event = Event(kind, str(identity.spiffe_id), "uid:0", NOW, "req_1", body)
        snapshot.apply([SealedEvent(position, event)])
        assert snapshot.trust.find(identity, NOW) is None, kind
    snapshot.trust.remember(identity, (), snapshot.epoch, NOW)
    snapshot.reload(Seed(epoch=9, cut_off={}, revoked={}))
    assert snapshot.trust.find(identity, NOW) is None


@pytest.mark.parametrize(
    ("selectors", "changes", "strength"),
    [
        (["unix:uid:1"], {}, Strength.ACCOUNT),
        (["unix:uid:1", "unix:gid:1"], {}, Strength.ACCOUNT),
        (["unix:uid:1", "unix:path:/bin/x"], {}, Strength.PROGRAM),
        (["unix:uid:1", f"unix:sha256:{'a' * 64}"], {}, Strength.PROGRAM),
        (["systemd:unit:x.service"], {}, Strength.ENCLOSURE),
        ([f"container:id:{'a' * 64}", "unix:uid:1"], {}, Strength.ENCLOSURE),
        (["unix:path:/bin/x"], {}, Strength.BORROWED),
        (["unix:gid:1"], {}, Strength.BORROWED),
        (["x509pop:cn:till-7"], {}, Strength.BORROWED),
        (["x509pop:cn:till-7", f"x509pop:ca:{'a' * 64}"], {}, Strength.CERTIFIED),
        ([f"x509pop:sha256:{'a' * 64}"], {}, Strength.CERTIFIED),
        ([], {}, Strength.NOTHING),
        ([], {"client": CLIENT}, Strength.KEY),
        ([], {"kind": Kind.DEVICE}, Strength.KEY),
    ],
)
def test_how_holders_are_told_apart(
    selectors: list[str], changes: dict[str, object], strength: Strength
) -> None:
    spec = make_spec(selectors=tuple(map(Selector.parse, selectors)))
    assert rate_attestation(make_identity(spec, **changes)) is strength


def test_what_is_registered_is_taken_over() -> None:
    standing = describe_standing(make_identity(client=CLIENT, template="met"))
    assert (standing.second_way, standing.first_sight, standing.managed) == (True, True, True)
    assert (standing.owner, standing.created_at) == ("payments@example.org", NOW)
    alone = describe_standing(make_identity(make_spec(selectors=()), client=CLIENT))
    assert (alone.second_way, alone.first_sight) == (False, False)
