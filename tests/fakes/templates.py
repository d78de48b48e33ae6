"""Templates to change one field at a time, as manifests and as values."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

from troth.identity.identity import Kind
from troth.identity.naming import Naming
from troth.identity.pattern import Pattern
from troth.identity.template import Template
from troth.wire.api.manifests import ManifestDocument, SubmitManifests


def make_template(name: str = "batch", *patterns: str, **changes: Any) -> Template:
    """A template of uids 1000 to 1999 on node local; `changes` replace fields."""
    made = Template(
        name=name,
        prefix=f"/{name}",
        naming=Naming.parse(changes.pop("naming", "{node}/{uid}")),
        match=tuple(map(Pattern.parse, patterns or ("unix:uid:1000-1999",))),
        nodes=("local",),
        kind=Kind.JOB,
        owner="batch@example.org",
        purpose="Nightly jobs",
        environment="prod",
        labels={},
        x509_ttl=timedelta(minutes=15),
        jwt_ttl=timedelta(minutes=5),
        hint="",
        unattended_after=timedelta(days=7),
        retire_after=timedelta(days=7),
        lifetime=timedelta(days=365),
        limit=1000,
        needs_approval=False,
    )
    return replace(made, **changes)


def describe_template(name: str = "batch", **spec: Any) -> dict[str, Any]:
    """The manifest of such a template; `spec` replaces fields, and None takes one away."""
    values: dict[str, Any] = {
        "match": ["unix:uid:1000-1999"],
        "kind": "job",
        "owner": "batch@example.org",
        "purpose": "Nightly jobs",
        **spec,
    }
    return {
        "apiVersion": "troth/v1",
        "kind": "Template",
        "metadata": {"name": name},
        "spec": {key: value for key, value in values.items() if value is not None},
    }


def submit(*manifests: dict[str, Any], prune: bool = False) -> SubmitManifests:
    """The request that plans or applies these."""
    documents = [ManifestDocument(value=value) for value in manifests]
    return SubmitManifests(documents=documents, prune=prune)
