"""A client of an application that asks nobody who may do what: its gate does.

It shows its X.509-SVID and no token, on connections of `troth.sdk`'s guard.
"""

from __future__ import annotations

import encodings.idna
from argparse import Namespace
from typing import Any

import httpcore
import httpx

from troth.cli.demonstration.programs.life import Voice, become, hear, make_parser
from troth.cli.demonstration.programs.series import Series
from troth.sdk.guard import PeerGuard

_LOADED_EARLY = (encodings.idna, httpcore)
"""What libraries import late, when this user may not be able to read it."""

SECONDS = 5.0


class Caller:
    """Reads and books one entry through the gate."""

    def __init__(self, options: Namespace, guard: PeerGuard, voice: Voice) -> None:
        self._options = options
        self._voice = voice
        self._http = httpx.Client(
            base_url=options.url,
            verify=guard.client_context({options.peer}),
            headers={"host": options.host},
            trust_env=False,
            timeout=SECONDS,
        )
        self._series: Series | None = None

    def read(self) -> dict[str, Any]:
        """Look at the entry."""
        return self._tell(self._http.get(self._options.path))

    def book(self) -> dict[str, Any]:
        """Change it."""
        return self._tell(self._http.post(self._options.path))

    def insist(self) -> dict[str, Any]:
        """From now on try to change it, again and again, whatever comes back."""

        def book() -> str:
            told = self.book()
            return "" if told["status"] == 200 else f"{told['status']} {told['reason']}"

        self._series = Series(book, self._voice)
        return {}

    def report(self) -> dict[str, Any]:
        """What became of that."""
        assert self._series is not None, "it doesn't insist on anything"
        return self._series.report()

    def rest(self) -> dict[str, Any]:
        """No longer."""
        assert self._series is not None, "it doesn't insist on anything"
        self._series.stop()
        return {}

    def _tell(self, answer: httpx.Response) -> dict[str, Any]:
        told = {
            "status": answer.status_code,
            "reason": answer.headers.get("x-troth-reason", ""),
            "decision": answer.headers.get("x-troth-decision", ""),
        }
        return {**told, "answer": answer.json()} if answer.status_code == 200 else told


def main() -> None:
    """Commands: the methods of `Caller`, told with what they return."""
    parser = make_parser(__doc__)
    for name in ("agent", "server", "peer", "url", "host", "path"):
        parser.add_argument(f"--{name}", required=True)
    options = parser.parse_args()
    become(options.uid)
    voice = Voice()
    with PeerGuard([options.server], options.agent) as guard:
        guard.wait_ready()
        caller = Caller(options, guard, voice)
        actions = {
            "read": caller.read,
            "book": caller.book,
            "insist": caller.insist,
            "report": caller.report,
            "rest": caller.rest,
        }
        voice.tell("ready")
        for word in hear():
            try:
                voice.tell(word, ok=True, **actions[word]())
            except Exception as error:  # noqa: BLE001  (whatever the SDK raises is the answer)
                voice.tell(word, ok=False, error=type(error).__name__, reason=str(error))


if __name__ == "__main__":
    main()
