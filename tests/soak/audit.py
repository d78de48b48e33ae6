"""The audit: what the database holds after a kill, against what was acknowledged before it.

The journal is read once, from front to back, a piece after each kill; what was acknowledged since
the last audit is looked up in the tables. At the end all is read anew, to see that nothing that
was once sealed has changed.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable
from typing import Any

from cryptography import x509

from tests.soak.ledger import BrokenPromise, Ledger, Move, Promises
from tests.soak.records import Records, find_rows, read_body

FATES = ("certificate.issued", "certificate.abandoned")
ROUND = re.compile(r"\bRound (\d+)$")
"""How a change by a manifest says which round it belongs to; it may have said another before."""

EVENTS = "select id, position, type, subject, body from journal where position"


def demand(holds: bool, what: str) -> None:
    """Raise `BrokenPromise` unless it holds; `assert` could be switched off."""
    if not holds:
        raise BrokenPromise(what)


class Journal:
    """What the sealed journal says, read piece by piece."""

    def __init__(self) -> None:
        self.head = 0
        self.rows: list[bytes] = []
        """A digest of each sealed row, by position from 1 on."""
        self.intended: dict[str, str] = {}
        self.fates: dict[str, str] = {}
        self.issued: dict[str, str] = {}
        self.revoked: set[str] = set()
        self.tokens: Counter[str] = Counter()
        self.identities: set[str] = set()
        self.reasons: dict[str, int] = {}
        self.joins: Counter[str] = Counter()
        self.invited: set[str] = set()
        self.activated: set[str] = set()
        self.codes: set[str] = set()
        self.devices: Counter[str] = Counter()
        self.rounds: dict[str, set[str]] = {}
        self.types: Counter[str] = Counter()
        self._ids: set[int] = set()

    def read(self, records: Records) -> Journal:
        """Take in what was sealed since the last time; what is committed and not sealed yet, as
        if it were, to be thrown away afterwards."""
        # One statement is one snapshot: servers may be sealing meanwhile.
        rows = records.rows(f"{EVENTS} > {self.head} union all {EVENTS} is null")
        waiting = Journal()
        for row_id, position, kind, subject, body in sorted(rows, key=_order):
            demand(row_id not in self._ids, f"journal row {row_id} is there twice")
            if position is None:
                waiting._take(kind, subject, 0, read_body(body))
                continue
            demand(position == self.head + 1, f"position {position} follows {self.head}")
            self._ids.add(row_id)
            self.head = position
            row = f"{row_id}|{position}|{kind}|{subject}|{body}"
            self.rows.append(hashlib.sha256(row.encode()).digest())
            self._take(kind, subject, position, read_body(body))
        return waiting

    def _take(self, kind: str, subject: str, position: int, body: dict[str, Any]) -> None:
        self.types[kind] += 1
        if kind == "certificate.intended":
            self.intended[body["serial"]] = body["authority"]
        elif kind in FATES:
            serial = body["serial"]
            demand(serial not in self.fates, f"certificate {serial} has two fates: {kind}")
            self.fates[serial] = kind
            if kind == "certificate.issued":
                self.issued[serial] = body["sha256"]
        elif kind == "certificate.revoked":
            demand(body["serial"] not in self.revoked, f"{body['serial']} was revoked twice")
            self.revoked.add(body["serial"])
        elif kind == "jwtsvid.issued":
            self.tokens[body["jti"]] += 1
        elif kind in ("identity.registered", "identity.changed"):
            self._take_identity(body)
        elif kind == "device.invited":
            self.codes.add(body["id"])
        elif kind == "device.enrolled":
            self.devices[body["id"]] += 1
        elif kind == "node.attested":
            self.joins[body["token"]] += 1
        elif kind == "token.created":
            self.invited.add(subject)
        elif kind == "authority.activated":
            self.activated.add(subject)
        if kind.startswith("identity.") and body.get("reason"):
            self.reasons[str(body["reason"])] = position

    def _take_identity(self, body: dict[str, Any]) -> None:
        self.identities.add(body["id"])
        for words in body.get("words", ()):
            if found := ROUND.search(words):
                self.rounds.setdefault(found[1], set()).add(body["name"])


def _order(row: tuple[Any, ...]) -> tuple[bool, int]:
    """By position, and then what has none, by row."""
    return row[1] is None, row[0] if row[1] is None else row[1]


class Audit:
    """Compares, after each kill. One ledger, one database."""

    def __init__(self, records: Records, ledger: Ledger) -> None:
        self._records = records
        self._ledger = ledger
        self.journal = Journal()
        self._unsealed: list[tuple[str, str]] = []
        self._chains: dict[str, list[str]] = {}
        self._joined: set[str] = set()
        self._device_serials: set[str] = set()
        self._revoked: set[str] = set()
        self._sighted: dict[str, str] = {}

    def look(self) -> None:
        """All that was acknowledged before this was called is recorded, and rightly."""
        self._ledger.check()
        fresh = self._ledger.take()
        waiting = self.journal.read(self._records)
        self._look_at_certificates(fresh.certificates)
        self._look_at_revocations(fresh.revoked)
        self._look_at(
            "select jti, state from jwt_svids where jti in", fresh.tokens, ("issued",), "token"
        )
        self._look_at("select id from identities where id in", fresh.identities, (), "identity")
        self._look_at_joins(fresh.joined)
        self._look_at("select id from join_tokens where id in", fresh.invited, (), "join token")
        self._look_at("select id from enrolment_codes where id in", fresh.codes, (), "code")
        self._look_at_devices(fresh)
        self._look_at_sights(fresh.sighted)
        self._look_at_manifests(fresh.applied)
        for kind, names in (
            ("issued", fresh.certificates),
            ("revoked", fresh.revoked),
            ("tokens", fresh.tokens),
            ("identities", fresh.identities),
            ("reasons", [move.reason for move in fresh.moves]),
            ("joins", fresh.joined),
            ("invited", fresh.invited),
            ("activated", fresh.activated),
            ("codes", fresh.codes),
            ("devices", fresh.devices.values()),
            ("identities", fresh.sighted),
            ("rounds", fresh.rounds),
        ):
            self._unsealed += [(kind, name) for name in names]
        self._look_in_journal(waiting)
        self._look_at_order(fresh.moves)

    def _look_at_certificates(self, acknowledged: dict[str, str]) -> None:
        sql = "select serial, state, der from certificates where serial in"
        rows = find_rows(self._records, sql, acknowledged)
        for serial, digest in acknowledged.items():
            demand(serial in rows, f"the acknowledged certificate {serial} is lost")
            _, state, der = rows[serial]
            demand(state == "issued", f"the acknowledged certificate {serial} is {state}")
            found = hashlib.sha256(bytes(der)).hexdigest()
            demand(found == digest, f"certificate {serial} was answered with other bytes")

    def _look_at_revocations(self, serials: set[str]) -> None:
        sql = "select serial, revoked_at from certificates where serial in"
        rows = find_rows(self._records, sql, serials)
        for serial in serials:
            demand(serial in rows and rows[serial][1] is not None, f"{serial} isn't revoked")

    def _look_at_joins(self, joined: set[str]) -> None:
        sql = "select id, used_at from join_tokens where id in"
        rows = find_rows(self._records, sql, joined)
        for token in joined:
            demand(token in rows and rows[token][1] is not None, f"join token {token} isn't used")
        self._joined |= joined

    def _look_at_devices(self, fresh: Promises) -> None:
        """Each enrolled device is there with its code used up; its certificates stand or don't,
        as it was answered."""
        sql = "select id, used_at from enrolment_codes where id in"
        codes = find_rows(self._records, sql, fresh.devices)
        unused = [code for code in fresh.devices if codes.get(code, (0, None))[1] is None]
        demand(not unused, f"enrolled and not used up: {unused[:3]}")
        sql = "select id, node_id from instances where id in"
        self._look_at(sql, fresh.devices.values(), ("",), "device")
        self._device_serials |= fresh.device_serials
        self._revoked |= fresh.revoked
        self._look_at_standing(fresh.device_serials | (fresh.revoked & self._device_serials))

    def _look_at_standing(self, serials: set[str]) -> None:
        sql = "select serial, revoked_at from certificates where serial in"
        rows = find_rows(self._records, sql, serials)
        # Asked for after the look: whatever has ended by then had been doubted before.
        doubtful = self._ledger.list_doubtful()
        for serial, revoked_at in rows.values():
            stands = revoked_at is None
            demand(
                stands or serial in doubtful, f"{serial} was revoked and nobody had asked for it"
            )
            demand(not stands or serial not in self._revoked, f"{serial} isn't revoked any more")

    def _look_at_sights(self, sighted: dict[str, str]) -> None:
        sql = "select id, template is not null, state from identities where id in"
        rows = find_rows(self._records, sql, sighted)
        for identity, uid in sighted.items():
            demand(identity in rows, f"the identity {identity} of uid {uid} is lost")
            demand(
                bool(rows[identity][1]) and rows[identity][2] == "active",
                f"the identity of uid {uid} is {rows[identity][1:]}",
            )
        self._sighted |= sighted

    def _look_at_manifests(self, applied: int) -> None:
        """What lives of the manifests is one round, whole, and none before the last answered."""
        sql = "select name, purpose from identities where managed and state <> 'retired'"
        problem = self._ledger.find_mixture(self._records.rows(sql), applied)
        demand(problem is None, str(problem))

    def _look_at(
        self, sql: str, names: Iterable[str], expected: tuple[str, ...], what: str
    ) -> None:
        rows = find_rows(self._records, sql, names)
        for name in names:
            demand(name in rows, f"the acknowledged {what} {name} is lost")
            demand(rows[name][1:] == expected, f"the {what} {name} is {rows[name][1:]}")

    def _look_in_journal(self, waiting: Journal) -> None:
        """Each promise has its event; those not sealed yet are looked for again next time."""
        left = []
        for kind, name in self._unsealed:
            if name in getattr(self.journal, kind):
                continue
            demand(name in getattr(waiting, kind), f"{kind} {name} isn't in the journal")
            left.append((kind, name))
        self._unsealed = left
        for token, count in (self.journal.joins + waiting.joins).items():
            demand(count == 1, f"join token {token} brought {count} nodes in")
        for device, count in (self.journal.devices + waiting.devices).items():
            demand(count == 1, f"device {device} enrolled {count} times with one code")

    def _look_at_order(self, moves: list[Move]) -> None:
        """Who was answered before asking again finds the two events in that order."""
        for move in moves:
            self._chains.setdefault(move.identity, []).append(move.reason)

    def check_order(self) -> None:
        """The steps of each identity stand in the journal as they were acknowledged."""
        for identity, reasons in self._chains.items():
            positions = [self.journal.reasons[reason] for reason in reasons]
            demand(positions == sorted(positions), f"the journal tells {identity} in disorder")

    def check_lists(self, lists: dict[str, bytes]) -> int:
        """Every revocation that the journal told before is on its authority's list; how many."""
        found = 0
        listed = {
            authority: {f"{entry.serial_number:040x}" for entry in x509.load_der_x509_crl(der)}
            for authority, der in lists.items()
        }
        for serial in self.journal.revoked:
            authority = self.journal.intended.get(serial)
            if authority in listed:
                found += 1
                demand(serial in listed[authority], f"{serial} is revoked and not on the list")
        return found

    def list_stranded(self) -> list[str]:
        """Intents without a result, by now."""
        return [
            str(row[0])
            for table, key in (("certificates", "serial"), ("jwt_svids", "jti"))
            for row in self._records.rows(f"select {key} from {table} where state = 'intended'")
        ]

    def check_stranded(self, now: float, allowed: float) -> None:
        """No intent is older than `allowed` seconds: a reconciler has run since."""
        limit = int((now - allowed) * 1_000_000)
        for table, at in (("certificates", "created_at"), ("jwt_svids", "issued_at")):
            sql = f"select count(*) from {table} where state = 'intended' and {at} < {limit}"
            ((count,),) = self._records.rows(sql)
            demand(count == 0, f"{count} intents in {table} are older than {allowed:.0f} s")

    def conclude(self) -> None:
        """At the end, with nothing under way: all of it again, from the first row."""
        self.look()
        demand(not self._unsealed, f"never sealed: {self._unsealed[:3]}")
        demand(not self.list_stranded(), "an interrupted issuance was left open")
        rows = self._records.rows("select count(*) from journal where position is null")
        demand(rows == [(0,)], f"{rows[0][0]} events were left without a position")
        self.check_order()
        again = Journal()
        again.read(self._records)
        demand(again.head == self.journal.head, f"{self.journal.head} rows became {again.head}")
        pairs = enumerate(zip(self.journal.rows, again.rows, strict=True), 1)
        changed = [position for position, (before, after) in pairs if before != after]
        demand(not changed, f"sealed history has changed at {changed[:5]}")
        self._check_serials()
        self._check_machines()
        open_ends = set(self.journal.intended) - set(self.journal.fates)
        demand(not open_ends, f"without a fate in the journal: {sorted(open_ends)[:3]}")
        sql = "select use, count(*) from authorities where state = 'active' group by use"
        active = dict(self._records.rows(sql))
        expected = {"access-token": 1, "jwt-svid": 1, "x509-svid": 1}
        demand(active == expected, f"active authorities: {active}")

    def _check_machines(self) -> None:
        """Devices, workloads that were met and manifests, from the first to the last."""
        self._look_at_standing(self._device_serials)
        ((count,),) = self._records.rows("select count(*) from instances where node_id = ''")
        enrolled = len(self.journal.devices)
        demand(count == enrolled, f"{count} devices, and {enrolled} in the journal")
        self._look_at_sights(dict(self._sighted))
        sql = "select name from identities where template is not null and state <> 'retired'"
        names = Counter(name for (name,) in self._records.rows(sql))
        demand(all(n == 1 for n in names.values()), f"met, and there twice: {names.most_common(1)}")
        for number, changed in self.journal.rounds.items():
            asked = self._ledger.name_manifests(int(number))
            demand(changed == asked, f"round {number} changed only {sorted(changed)}")

    def _check_serials(self) -> None:
        """A serial stands in its own certificate, and in no other."""
        signed: set[int] = set()
        for serial, state, der in self._records.rows("select serial, state, der from certificates"):
            demand((state == "issued") == (der is not None), f"{serial} is {state}")
            if der is not None:
                number = x509.load_der_x509_certificate(bytes(der)).serial_number
                demand(number == int(serial, 16), f"{serial} holds another serial")
                demand(number not in signed, f"{serial} is there twice")
                signed.add(number)
