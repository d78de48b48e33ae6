"""When a kept token is served although no new one can be had."""

from __future__ import annotations

import pytest

from tests.fakes.server import make_entry, make_process, run_node
from tests.fakes.source import in_loop
from troth.agent.tokens import Tokens
from troth.core.errors import Denied, Internal, Invalid, TooLarge


@pytest.mark.parametrize("failure", [TooLarge("413"), Internal("500"), Invalid("Another's.")])
@in_loop
async def test_a_kept_token_is_served_when_the_call_is_refused_and_not_its_identity(failure):
    async with run_node(make_entry("web")) as node:
        tokens = Tokens(node.jwt_svids, node.time.clock, node.entropy)
        snapshot = node.sync.require_snapshot()
        workload = node.cache.admit(make_process(1), 0.0)
        wanted = (workload, snapshot.registrations["idn_web"], ("ledger",), snapshot)
        kept = await tokens.issue(*wanted)
        await node.time.advance(166)
        node.server.failure = failure
        assert await tokens.issue(*wanted) == kept
        node.server.failure = Denied("Cut off.")
        with pytest.raises(Denied):
            await tokens.issue(*wanted)
