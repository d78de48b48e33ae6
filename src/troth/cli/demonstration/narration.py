"""Telling the story: each step says what happens and why, checks itself, and is counted."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import msgspec

from troth.cli.terminal import Terminal
from troth.cli.words import clean_text


@dataclass(slots=True)
class Check:
    """One thing that must hold, and what was seen."""

    claim: str
    held: bool
    seen: str


@dataclass(slots=True)
class Step:
    """One step under way; `at` and `seconds` are seconds since the story began, and its length."""

    number: int
    name: str
    title: str
    at: float
    seconds: float = 0.0
    checks: list[Check] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    error: str = ""

    @property
    def ok(self) -> bool:
        """Whether all that it claims was seen."""
        return not self.error and bool(self.checks) and all(check.held for check in self.checks)


class Narrator:
    """Prints the story for people, or its steps as JSON Lines for programs."""

    def __init__(self, terminal: Terminal) -> None:
        self._terminal = terminal
        self._console = terminal.open_console(stderr=terminal.json)
        self._began = terminal.clock.monotonic()
        self._step: Step | None = None
        self.steps: list[Step] = []

    @property
    def failed(self) -> int:
        """How many steps didn't hold."""
        return sum(not step.ok for step in self.steps)

    def now(self) -> float:
        """Seconds since the story began."""
        return self._terminal.clock.monotonic() - self._began

    @contextmanager
    def step(
        self, number: int, name: str, title: str, explain: Callable[[Exception], str]
    ) -> Iterator[Step]:
        """One step. An error ends it as failed, with the words that `explain` finds for it."""
        step = Step(number, name, title, self.now())
        self._step = step
        self.steps.append(step)
        self._print("")
        self._print(f"{self._stamp()} {number}. {title}", style="bold")
        try:
            yield step
        except Exception as error:  # noqa: BLE001  (a step fails, the story is still told and ended)
            step.error = explain(error)
            self._print(f"           ✗ {step.error}", style="bold red")
        step.seconds = self.now() - step.at
        self._step = None
        if self._terminal.json:
            self._emit({**asdict(step), "ok": step.ok})

    def say(self, words: str) -> None:
        """What happens, or why."""
        self._print(f"{self._stamp()} {words}")

    def quote(self, text: str, most: int = 40) -> None:
        """Lines that another program printed."""
        lines = [line.rstrip() for line in text.splitlines() if line.strip()]
        for line in lines[:most]:
            self._print(f"           │ {line}", style="dim")
        if len(lines) > most:
            self._print(f"           │ … {len(lines) - most} more lines", style="dim")

    def type(self, command: str) -> None:
        """The command that a person would type for this."""
        self._print(f"           $ {command}", style="cyan")

    def check(self, claim: str, held: bool, seen: object = "") -> bool:
        """Something that must hold; goes on either way and returns whether it does."""
        assert self._step is not None, "a check belongs to a step"
        self._step.checks.append(Check(claim, bool(held), str(seen)))
        words = f"{claim}: {seen}" if str(seen) else claim
        sign, style = ("✓", "green") if held else ("✗", "bold red")
        self._print(f"{self._stamp()} {sign} {words}", style=style)
        return bool(held)

    def end(self, *, planned: int) -> None:
        """The last line. Steps that weren't reached have failed: nothing is known of them."""
        failed = self.failed + planned - len(self.steps)
        if self._terminal.json:
            self._emit({"steps": planned, "failed": failed, "seconds": self.now()})
            return
        self._print("")
        self._print(f"demo: {planned} steps, {failed} failed")

    def tell(self, words: str = "", style: str = "") -> None:
        """A line outside of any step."""
        self._print(words, style=style)

    def _stamp(self) -> str:
        return f"[{self.now():7.2f}s]"

    def _print(self, words: str, style: str = "") -> None:
        self._console.print(
            clean_text(words), style=style, markup=False, highlight=False, soft_wrap=True
        )

    def _emit(self, value: dict[str, Any]) -> None:
        sys.stdout.write(msgspec.json.encode(value).decode() + "\n")
        sys.stdout.flush()
