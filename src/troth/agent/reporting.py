"""Tells the server which instances live here and who was refused, so that people can look it up."""

from __future__ import annotations

import structlog

from troth.agent.connection import Api
from troth.agent.refusals import Refusals
from troth.agent.timing import Sleep, wait_first
from troth.agent.workloads import Workloads
from troth.core.errors import TrothError
from troth.wire.api.nodes import ReportWorkloads, WorkloadSeen

log = structlog.get_logger(__name__)

PERIOD = 30.0
REST = 1.0
"""Seconds between two reports at least, however many processes are refused."""

MAX_SEEN = 10_000


class Reporter:
    """Sends ``node.report`` every 30 s, and soon after a process was refused."""

    def __init__(self, api: Api, workloads: Workloads, refusals: Refusals, sleep: Sleep) -> None:
        self._api = api
        self._workloads = workloads
        self._refusals = refusals
        self._sleep = sleep

    async def run(self) -> None:
        """Report for ever. A report that fails is part of the next one."""
        while True:
            version = self._refusals.changes.version
            await self.report()
            await self._sleep(REST)
            await wait_first(
                self._sleep(PERIOD - REST), self._refusals.changes.wait_beyond(version)
            )

    async def report(self) -> None:
        """Send what there is to tell, if anything."""
        seen = [WorkloadSeen(instance_id=i) for i in self._workloads.list_instances()]
        refused = self._refusals.take()
        if not seen and not refused:
            return
        try:
            await self._api.call(
                "node.report", ReportWorkloads(seen=seen[:MAX_SEEN], refused=refused)
            )
        except TrothError as error:
            self._refusals.put_back(refused)
            log.warning("report.failed", code=error.code, reason=error.detail)
