"""Manifests of kind Issuer: what is made of them, and what is wrong or doubtful in them."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from troth.core.manifest.kind import ManifestKind
from troth.core.manifest.problem import Node, show_value
from troth.identity.issuer import Issuer
from troth.identity.issuer_fields import ISSUER_SPEC
from troth.identity.provider import (
    GITHUB,
    KUBERNETES,
    MICROSOFT,
    Provider,
    find_provider,
    judge_rule,
    judge_url,
)

COMMON_AUDIENCES = (
    "https://github.com/",
    "https://kubernetes.default",
    "sts.amazonaws.com",
    "api://AzureADTokenExchange",
    "https://iam.googleapis.com/",
    "vault",
)
"""Beginnings of what tokens for others are meant for."""


def make_issuer(node: Node, values: dict[str, Any]) -> Issuer | None:
    """The issuer of a document whose fields are read; None with its errors noted."""
    before = len(node.problems)
    issuer = Issuer(**values)
    section = node.child("spec")
    provider = find_provider(issuer.url, issuer.identities)
    if reason := judge_url(provider, issuer.url):
        section.child("url").error(reason)
    _judge_rules(section, issuer, provider)
    if node.failed_since(before):
        return None
    _report_doubts(section, issuer, provider)
    return issuer


def _judge_rules(section: Node, issuer: Issuer, provider: Provider) -> None:
    rules = section.child("identities")
    earlier: dict[frozenset[Any], str] = {}
    for index, rule in enumerate(issuer.identities):
        if not rule.conditions:
            continue  # could not be read: that is told already
        inner = rules.child(index)
        if reason := judge_rule(provider, rule):
            inner.error(reason)
        other = earlier.setdefault(frozenset(rule.conditions), rule.identity)
        if other != rule.identity:
            inner.error(
                f"the same claims mean '{other}': who has them would be nobody. Tell them apart."
            )
        for words in provider.advise(rule):
            inner.warn(f"'{rule.identity}': {words}")


def _report_doubts(section: Node, issuer: Issuer, provider: Provider) -> None:
    if issuer.audience.startswith(COMMON_AUDIENCES):
        section.child("audience").warn(
            "tokens for others have this audience too, and whoever is shown one could show it "
            "here: let the workload ask for an audience of its own."
        )
    if provider is MICROSOFT and not issuer.audience:
        section.warn("no audience: tokens of Microsoft are meant for an application of yours.")
    host = urlsplit(issuer.url).hostname or ""
    own_name = provider is KUBERNETES and host.startswith("kubernetes.default")
    if own_name and not (issuer.jwks_uri and issuer.ca):
        section.child("url").warn(
            "every cluster has this name for itself: write jwksUri, where this server reaches the "
            "keys of the one that is meant, and its ca."
        )
    if provider is GITHUB and issuer.ca:
        section.child("ca").warn("github.com is certified by authorities that the system trusts.")
    if issuer.private_network and not issuer.ca:
        section.child("privateNetwork").warn(
            "whoever may apply manifests may have this server ask addresses of its own network."
        )


def report_shared_urls(read: list[tuple[Node, Issuer]]) -> None:
    """An error where two issuers have the same URL."""
    owners: dict[str, str] = {}
    for node, issuer in read:
        owner = owners.setdefault(issuer.url, issuer.name)
        if owner != issuer.name:
            node.child("spec").child("url").error(
                f"{show_value(issuer.url)} is the URL of issuer '{owner}' too; write its rules "
                "into one manifest."
            )


ISSUER = ManifestKind("Issuer", ISSUER_SPEC, make_issuer)
