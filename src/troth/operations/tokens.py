"""Access tokens, recorded and signed together where they are asked for together.

A token has no row: what was issued is an event of the journal, committed before the token is given
out, with the proofs that were used up for it in the same transaction.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from contextvars import Context, copy_context
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial

from troth.core.errors import Refused, TrothError, Unavailable
from troth.core.events import Event
from troth.drivers.keystores import Keystore
from troth.issuance.accesstoken import (
    AccessToken,
    check_finished,
    finish_token,
    render_header,
    render_signing_input,
)
from troth.issuance.authorities import TOKEN_ALGORITHMS, Authority
from troth.operations.queue import BatchQueue, settle_failure
from troth.operations.sealing import TokenSealer
from troth.operations.succession import may_record
from troth.store.engine import Store
from troth.store.transaction import Transaction

MOST_TOGETHER = 128


@dataclass(frozen=True, slots=True)
class _Wanted:
    authority: Authority
    signing_input: bytes
    event: Event
    proofs: Mapping[str, datetime]
    answer: asyncio.Future[str]
    sealed_at: datetime | None = None
    context: Context = field(default_factory=copy_context)


class TokenGatherer:
    """Records and signs tokens in common batches. Belongs to one event loop."""

    def __init__(self, store: Store, keystore: Keystore, sealer: TokenSealer) -> None:
        self._store = store
        self._keystore = keystore
        self._sealer = sealer
        self._queue = BatchQueue(self._issue, MOST_TOGETHER, "tokens gathered")
        self._headers: dict[str, bytes] = {}

    async def issue(
        self,
        authority: Authority,
        token: AccessToken,
        event: Event,
        proofs: Mapping[str, datetime],
        *,
        opaque: bool = False,
    ) -> str:
        """The signed token, sealed if it is to be `opaque`, once `event` is durable and `proofs`
        are used up.

        `Replayed` if one of them was used before, `Unavailable` if it can't be signed now.
        """
        header = self._headers.get(token.kid)
        if header is None:
            algorithm = TOKEN_ALGORITHMS[authority.use]
            header = self._headers[token.kid] = render_header(token.kid, algorithm)
        content = render_signing_input(token, header)
        sealed_at = token.issued_at if opaque else None
        return await self.sign(authority, content, event, proofs, sealed_at=sealed_at)

    async def sign(
        self,
        authority: Authority,
        signing_input: bytes,
        event: Event,
        proofs: Mapping[str, datetime],
        *,
        sealed_at: datetime | None = None,
    ) -> str:
        """As `issue`, for a token of another kind: the bytes that its authority is to sign."""
        answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._queue.put(_Wanted(authority, signing_input, event, proofs, answer, sealed_at))
        return await answer

    async def _issue(self, batch: Sequence[_Wanted]) -> None:
        try:
            refused = await self._store.transact(lambda tx: _record(tx, batch))
            kept = [one for number, one in enumerate(batch) if number not in refused]
            tokens = await asyncio.to_thread(self._sign, kept) if kept else []
        except BaseException as error:
            for one in batch:
                settle_failure(one.answer, error)
            if not isinstance(error, Exception):
                raise
            return
        for number, refusal in refused.items():
            settle_failure(batch[number].answer, refusal)
        for one, text in zip(kept, tokens, strict=True):
            if not one.answer.done():  # whoever asked may have gone
                one.answer.set_result(text)

    def _sign(self, batch: Sequence[_Wanted]) -> list[str]:
        tokens: dict[int, str] = {}
        by_key: dict[str, list[int]] = {}
        for number, one in enumerate(batch):
            by_key.setdefault(one.authority.key_ref, []).append(number)
        for key_ref, numbers in by_key.items():
            inputs = [batch[number].signing_input for number in numbers]
            authority = batch[numbers[0]].authority
            signatures = self._keystore.sign_all(key_ref, inputs)
            texts = list(map(partial(finish_token, authority), inputs, signatures))
            # What a keystore can get wrong is the key, and that with all that it signs at once.
            check_finished(authority, texts[0], inputs[0], signatures[0])
            for number, text in zip(numbers, texts, strict=True):
                at = batch[number].sealed_at
                tokens[number] = text if at is None else self._sealer.seal(text, at)
        return [tokens[number] for number in range(len(batch))]


def _record(tx: Transaction, batch: Sequence[_Wanted]) -> dict[int, TrothError]:
    """Use up the proofs and append the events of all whose proofs were fresh; the others."""
    refused: dict[int, TrothError] = {}
    allowed = {ref: may_record(tx, ref) for ref in {one.authority.id for one in batch}}
    proofs: dict[str, datetime] = {}
    for number, one in enumerate(batch):
        if not allowed[one.authority.id]:
            refused[number] = Unavailable("The signing authority was replaced just now; ask again.")
        elif twice := proofs.keys() & one.proofs.keys():
            refused[number] = Replayed(twice)
        else:
            proofs.update(one.proofs)
    used = tx.used_proofs.take_all(proofs)
    events = []
    for number, one in enumerate(batch):
        if number in refused:
            continue
        if before := used & one.proofs.keys():
            refused[number] = Replayed(before)
        else:
            events.append(one.event)
    tx.journal.append_all(events, patient=True)
    return refused


class Replayed(Refused):
    """Proofs that were used before, by digest."""

    def __init__(self, digests: Collection[str]) -> None:
        super().__init__(
            "It was used before; make a new one, with a jti of its own, for each request."
        )
        self.digests = frozenset(digests)
