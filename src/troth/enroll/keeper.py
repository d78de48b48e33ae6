"""Keeping a certificate fresh: when to renew, how long to wait, what to do when it is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from troth.core.clock import Clock
from troth.core.entropy import Entropy, fraction
from troth.core.errors import TrothError
from troth.enroll.device import Device
from troth.enroll.folder import Enrolment

Sleep = Callable[[float], None]
"""Waits for that many seconds."""

FIRST_DELAY = 1.0
LONGEST_DELAY = 300.0
LONGEST_NAP = 60.0
"""Seconds after which a wait looks at the clock again: a device's may be set, or it may sleep."""
REFRESH = timedelta(hours=1)
"""How often the roots are looked at between renewals: a forced rotation may come any time."""


class Delay:
    """Seconds to wait after a failure: doubled each time, up to a cap, each with jitter."""

    def __init__(self, entropy: Entropy) -> None:
        self._entropy = entropy
        self._next = FIRST_DELAY

    def take(self) -> float:
        """The next one: between half of it and the whole."""
        delay, self._next = self._next, min(self._next * 2, LONGEST_DELAY)
        return delay * (0.5 + fraction(self._entropy) / 2)

    def reset(self) -> None:
        """It worked: start small again."""
        self._next = FIRST_DELAY


def place_renewal(enrolment: Enrolment, entropy: Entropy) -> datetime:
    """When to renew: as the server said, give or take a fifth of the time from there to the end,
    so that a fleet that was enrolled together doesn't come back together."""
    spread = (enrolment.end - enrolment.due) / 5
    return enrolment.due + spread * (2 * fraction(entropy) - 1)


@dataclass(frozen=True, slots=True)
class Patience:
    """Tries again what may pass."""

    clock: Clock
    entropy: Entropy
    sleep: Sleep
    tell: Callable[[str], None]

    def attempt(self, work: Callable[[], Enrolment], seconds: float) -> Enrolment:
        """What `work` returns; failures that may pass are tried again for `seconds`."""
        delay = Delay(self.entropy)
        deadline = self.clock.monotonic() + seconds
        while True:
            try:
                return work()
            except TrothError as error:
                wait = delay.take()
                if not error.retryable or self.clock.monotonic() + wait > deadline:
                    raise
                self.tell(f"{error.detail} Trying again in {wait:.0f} s.")
            self.sleep(wait)


@dataclass(frozen=True, slots=True)
class Keeper:
    """Keeps one device's certificate fresh, for ever. `changed` is called after each change."""

    device: Device
    patience: Patience
    changed: Callable[[Enrolment], None]

    def run(self) -> None:
        """Renew at half life; enrol where there is nothing to renew or it was refused.

        It never gives up: a device nobody can reach by hand must come back by itself, once the
        server is there again or a new code is.
        """
        delay = Delay(self.patience.entropy)
        while True:
            try:
                self._wait_until_due()
                self.changed(self._obtain())
                delay.reset()
            except (TrothError, OSError) as error:
                wait = delay.take()
                detail = error.detail if isinstance(error, TrothError) else str(error)
                self.patience.tell(f"{detail} Trying again in {wait:.0f} s.")
                self.patience.sleep(wait)

    def _obtain(self) -> Enrolment:
        """A new certificate, by the present one if that still counts, else by the proof."""
        present = self.device.folder.load()
        if present is None or self.patience.clock.now() >= present.end:
            return self.device.enroll()
        try:
            return self.device.renew()
        except TrothError as refusal:
            if refusal.retryable or self.device.proof is None:
                raise
            self.patience.tell(f"{refusal.detail} Enrolling anew.")
            return self.device.enroll()

    def _wait_until_due(self) -> None:
        present = self.device.folder.load()
        if present is None:
            return
        due = place_renewal(present, self.patience.entropy)
        look = self._plan_refresh()
        while (now := self.patience.clock.now()) < due:
            if now >= look:
                self._refresh(present)
                look = self._plan_refresh()
            rest = (min(due, look) - now).total_seconds()
            self.patience.sleep(max(0.0, min(rest, LONGEST_NAP)))

    def _plan_refresh(self) -> datetime:
        return self.patience.clock.now() + REFRESH * (0.75 + fraction(self.patience.entropy) / 2)

    def _refresh(self, present: Enrolment) -> None:
        try:
            if self.device.refresh():
                self.changed(present)
        except (TrothError, OSError) as error:
            self.patience.tell(f"The roots could not be looked at: {error}")
