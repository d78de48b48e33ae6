"""One call made again and again, and until when it was answered: what a cut-off is measured by."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from typing import Any

import httpx

from troth.cli.demonstration.programs.life import Voice

PAUSE = 0.01
"""Seconds between the end of a call and the next."""

_PARAMETER = re.compile(r'(\w+)="([^"]*)"')


def read_challenge(answer: httpx.Response) -> dict[str, str]:
    """What a protected resource says is wrong with a token (RFC 6750, section 3)."""
    return dict(_PARAMETER.findall(answer.headers.get("www-authenticate", "")))


def describe_refusal(answer: httpx.Response) -> str:
    """A refusal in words: its status, the standard's code and the resource's sentence."""
    found = read_challenge(answer)
    words = (str(answer.status_code), found.get("error"), found.get("error_description"))
    return " ".join(word for word in words if word)


class Series:
    """Calls `attempt` in a thread of its own until it is stopped or the process ends.

    `attempt` returns why it was refused, or "" if it was answered; what it raises is a refusal.
    """

    def __init__(self, attempt: Callable[[], str], voice: Voice) -> None:
        self._attempt = attempt
        self._voice = voice
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._facts: dict[str, Any] = {
            "answered": 0,
            "refused": 0,
            "first_answered": 0.0,
            "last_answered": 0.0,
            "first_refused": 0.0,
            "last_refused": 0.0,
            "reason": "",
            "latest": "",
        }
        self._thread = threading.Thread(target=self._go_on, daemon=True)
        self._thread.start()

    def report(self) -> dict[str, Any]:
        """How often; when the first and the last call began of those that were answered or refused
        since it was otherwise; why the first and the latest were refused."""
        with self._lock:
            return dict(self._facts)

    def stop(self) -> None:
        """Call no more once the present call has ended."""
        self._stopped.set()

    def join(self, seconds: float) -> None:
        """Wait until that is so."""
        self._thread.join(seconds)

    def _go_on(self) -> None:
        while not self._stopped.is_set():
            began = self._voice.now()
            try:
                reason = self._attempt()
            except Exception as error:  # noqa: BLE001  (whatever the libraries raise is a refusal)
                reason = str(error) or type(error).__name__
            self._note(began, reason)
            time.sleep(PAUSE)

    def _note(self, began: float, reason: str) -> None:
        with self._lock:
            facts = self._facts
            if not reason:
                if facts["first_answered"] <= facts["last_refused"]:
                    facts["first_answered"] = began
                facts["answered"] += 1
                facts["last_answered"] = began
                return
            if facts["first_refused"] <= facts["last_answered"]:
                facts["first_refused"] = began
                facts["reason"] = reason
            facts["refused"] += 1
            facts["last_refused"] = began
            facts["latest"] = reason
