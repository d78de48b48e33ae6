"""Functions that are called only by who may: the decorator of an `Enforcer`."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, cast

from troth.core.errors import Invalid
from troth.sdk.access import (
    ASKER,
    NOTHING_TOLD,
    AccessDecision,
    AccessDenied,
    Asker,
    Subject,
    Told,
)

if TYPE_CHECKING:
    from troth.sdk.enforcer import Enforcer

P = ParamSpec("P")
R = TypeVar("R")
Arguments = Mapping[str, Any]
"""A function's arguments by their names, defaults included."""


@dataclass(frozen=True, slots=True)
class Permission:
    """What a decorated function does, found from its arguments."""

    decider: Enforcer
    action: str
    resource: str
    id: Callable[[Arguments], str] | str
    subject: Callable[[Arguments], str | Subject] | None
    properties: Callable[[Arguments], Mapping[str, Any]] | None

    def decorate(self, function: Callable[P, R]) -> Callable[P, R]:
        """The function, for those who may; it raises `AccessDenied` for others."""
        names = inspect.signature(function)
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            raise Invalid("A generator can't be permitted: decorate what makes it.")
        if inspect.iscoroutinefunction(function):
            wanted = cast(Callable[P, Awaitable[Any]], function)

            @functools.wraps(function)
            async def call_async(*args: P.args, **kwargs: P.kwargs) -> Any:
                asker, thing, told = self._ask(names, args, kwargs)
                asked = (asker.subject, self.action, self.resource, thing, told)
                check(await self.decider.decide_async(*asked))
                return await wanted(*args, **kwargs)

            return cast(Callable[P, R], call_async)

        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            asker, thing, told = self._ask(names, args, kwargs)
            asked = (asker.subject, self.action, self.resource, thing, told)
            check(self.decider.decide(*asked))
            return function(*args, **kwargs)

        return call

    def _ask(self, names: inspect.Signature, args: Any, kwargs: Any) -> tuple[Asker, str, Told]:
        """On whose behalf, of which thing, and what is known besides."""
        bound = names.bind(*args, **kwargs)
        bound.apply_defaults()
        given = bound.arguments
        asker = ASKER.get() or Asker("")
        if self.subject is not None:
            who = self.subject(given)
            # What is known of a request is known of whoever made it, and of nobody else.
            told = asker.told if asker.subject == who else NOTHING_TOLD
            asker = Asker(who, told)
        told = asker.told
        if self.properties is not None:
            told = {**told, "resource": self.properties(given)}
        return asker, self.id(given) if callable(self.id) else self.id, told


def check(decision: AccessDecision) -> None:
    """Raise `AccessDenied` unless it is allowed."""
    if not decision.allowed:
        raise AccessDenied(decision)
