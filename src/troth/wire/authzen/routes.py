"""Where the decision point is: the paths of its API, and of its metadata."""

from __future__ import annotations

from collections.abc import Mapping

EVALUATION_PATH = "/access/v1/evaluation"
EVALUATIONS_PATH = "/access/v1/evaluations"
METADATA_PATH = "/.well-known/authzen-configuration"
SEARCH_PATHS: Mapping[str, str] = {
    "subject": "/access/v1/search/subject",
    "resource": "/access/v1/search/resource",
    "action": "/access/v1/search/action",
}
"""What is searched for → where."""
AUTHZEN_PATHS: Mapping[str, str] = {
    EVALUATION_PATH: "decision.evaluate",
    EVALUATIONS_PATH: "decision.evaluate",
    **dict.fromkeys(SEARCH_PATHS.values(), "decision.search"),
}
"""Path → operation, of those that take a POST."""
