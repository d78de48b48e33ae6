"""The story of `troth demo`: its steps in order, told until the end or until one can't go on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from troth.cli.demonstration import history, opening, policies, tokens, trials
from troth.cli.demonstration.narration import Step
from troth.cli.demonstration.scene import Scene


@dataclass(frozen=True, slots=True)
class Act:
    """One step of the story; without an essential one, nothing after it can be told."""

    name: str
    title: str
    play: Callable[[Scene, Step], None]
    essential: bool = False


ACTS: tuple[Act, ...] = (
    Act("ready", "troth starts in an empty directory", opening.start_troth, essential=True),
    Act("identities", "Identities come from a manifest", opening.apply_identities, essential=True),
    Act("services", "Two services speak mutual TLS", opening.start_services, essential=True),
    Act("reporter", "A job gets SVIDs with PyPI's `spiffe`", opening.run_reporter),
    Act("impostor", "An impostor gets nothing", opening.run_impostor),
    Act("rotation", "Certificates rotate under traffic", opening.rotate),
    Act("quarantine", "Orders turns bad and is cut off", trials.quarantine),
    Act("release", "Orders is let back in", trials.release),
    Act("instance", "One running copy is locked alone", trials.lock_instance),
    Act("roles", "APIs and roles come from a manifest too", tokens.apply_roles),
    Act("token", "The reporter calls an API with a token", tokens.call_api),
    Act("delegation", "Orders passes the caller on to payments", tokens.pass_on),
    Act("cutoff", "The reporter turns bad, and its next call fails", tokens.cut_off),
    Act("readmission", "Let back in, it needs a new token", tokens.let_back_in),
    Act("policy", "A gate denies a call, and troth says why", policies.forbid),
    Act("change", "The rule is changed, and the call passes", policies.change),
    Act("trust", "Evidence takes it away again, and gives it back", policies.doubt),
    Act("evidence", "Doctor explains, openssl verifies", trials.explain_and_verify),
    Act("trace", "Somebody asks why a call was denied", history.trace),
    Act("proof", "The decision is proved offline", history.prove),
    Act("tampering", "A copy of the log is tampered with, and caught", history.tamper),
    Act("crash", "The server is killed under traffic", trials.crash),
)


def play_story(scene: Scene) -> bool:
    """Tell it all; returns whether every step held."""
    narrator = scene.narrator
    for number, act in enumerate(ACTS, 1):
        with narrator.step(number, act.name, act.title, scene.explain) as step:
            act.play(scene, step)
        if act.essential and not step.ok:
            narrator.tell("The story can't go on without that.")
            break
    return len(narrator.steps) == len(ACTS) and not narrator.failed
