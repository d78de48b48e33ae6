"""Rules are checked with all that is declared beside them, each mistake at its place."""

from __future__ import annotations

import textwrap
from datetime import UTC, datetime

import pytest

from troth.core.manifest.problem import Limits, Problem
from troth.manifests.reading import parse_manifests
from troth.wire.yaml import load_documents

NOW = datetime(2026, 11, 1, tzinfo=UTC)
RESOURCE = """\
apiVersion: troth/v1
kind: Resource
metadata: {name: ledger}
spec:
  owner: pay
  purpose: Books
  actions: {read: See it, write: Change it}
  attributes: {status: text}
---
"""


def check(cedar: str, before: str = RESOURCE) -> list[Problem]:
    text = before + textwrap.dedent(
        """\
        apiVersion: troth/v1
        kind: Policy
        metadata: {name: one}
        spec:
          owner: pay
          purpose: Books
          cedar: |
        """
    )
    text += textwrap.indent(textwrap.dedent(cedar), " " * 4)
    return list(parse_manifests(load_documents(text.encode(), "a.yaml"), Limits(), NOW).errors)


def test_cedar_that_fits_is_no_mistake() -> None:
    assert check('permit (principal, action == Action::"ledger/read", resource);\n') == []
    assert check('permit (principal, action == Action::"other/read", resource);\n') == []
    assert (
        check(
            """\
            permit (principal, action, resource)
            when { context.resource has status && context.resource.status == "open" };
            """
        )
        == []
    )


@pytest.mark.parametrize(
    ("cedar", "place", "words"),
    [
        (
            """\
            permit (
              principal,
              action == Action::"ledger/wirte",
              resource
            );
            """,
            (19, 17),
            "unrecognized action",
        ),
        (
            """\
            forbid (principal, action, resource)
            when { context.request.country == "CH" };
            """,
            (18, 12),
            "optional attribute",
        ),
        (
            """\
            forbid (principal, action, resource)
            when { context.resource.statsu == "open" };
            """,
            (18, 12),
            "which nothing declares",
        ),
        (
            """\
            forbid (principal, action, resource)
            when {
              context.resource has status && context.resource.status };
            """,
            (16, 3),
            "Bool",
        ),
        (
            """\
            permit (principal, action, resourc)
            when { true };
            """,
            (16, 3),
            "invalid variable",
        ),
        (
            """\
            permit (principal, action == Action::"troth.identity/supsend", resource);
            permit (principal, action, resource);
            """,
            (16, 3),
            "exactly one",
        ),
        (
            """\
            permit (principal,
              action == Action::"troth.identity/supsend", resource);
            """,
            (18, 17),
            "unrecognized action",
        ),
    ],
)
def test_a_mistake_in_cedar_has_line_and_column(
    cedar: str, place: tuple[int, int], words: str
) -> None:
    found = check(cedar)
    assert words in found[0].message
    assert (found[0].line, found[0].column, found[0].path) == (*place, "spec.cedar")
