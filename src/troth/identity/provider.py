"""Common OpenID issuers: which claim says whose workload it is, and where their users slip.

Sources: the providers' own documentation of their tokens: GitHub Actions ("OpenID Connect
reference", with immutable subjects since 2026), GitLab ("ID tokens"), Kubernetes ("Managing Service
Accounts"), Google ("OpenID Connect"), Microsoft Entra ("access token claims"), AWS ("outbound
identity federation").
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from troth.identity.issuer import Condition, Rule

NAMESPACE = ("kubernetes.io", "namespace")
ACCOUNT = ("kubernetes.io", "serviceaccount", "name")
ACCOUNT_UID = ("kubernetes.io", "serviceaccount", "uid")
AWS_CLAIMS = "https://sts.amazonaws.com/"

_EXACT = "[^*]+"
_ANY_TENANT = ("common", "organizations", "consumers", "9188040d-6c67-4c5b-b112-36a304b66dad")


@dataclass(frozen=True, slots=True)
class Provider:
    """What is known of a kind of issuer.

    `pins` are the claims of which one must be written out so far that no stranger fits: claim →
    what its texts must look like. `advise` yields what is legal and probably not meant.
    """

    name: str
    pins: Mapping[tuple[str, ...], str]
    example: str
    advise: Callable[[Rule], Iterator[str]]


def find_provider(url: str, rules: Iterable[Rule]) -> Provider:
    """The kind of the issuer at `url`: by its host, or by the claims that its rules speak of."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    if host.startswith("token.actions.") or parts.path.endswith("/_services/token"):
        return GITHUB
    if host in ("sts.windows.net", "login.microsoftonline.com", "login.microsoftonline.us"):
        return MICROSOFT
    if host == "accounts.google.com":
        return GOOGLE
    if host.endswith(".tokens.sts.global.api.aws"):
        return AWS
    claims = {one.claim[0] for rule in rules for one in rule.conditions}
    subjects = [
        text
        for rule in rules
        if (subject := rule.find("sub")) is not None
        for text in subject.texts
    ]
    if _is_cluster(host) or "kubernetes.io" in claims or _begin(subjects, "system:serviceaccount:"):
        return KUBERNETES
    if host == "gitlab.com" or claims & {"project_path", "project_id", "namespace_path"}:
        return GITLAB
    return GITLAB if _begin(subjects, "project_path:") else OTHER


def judge_rule(provider: Provider, rule: Rule) -> str:
    """Why this rule would let strangers in; empty if it doesn't."""
    for condition in rule.conditions:
        for text in condition.texts:
            if not text.strip("*/:@| "):
                return (
                    f"'{condition.name}: {text}' is a bare wildcard, so whatever the claim says "
                    "fits. Write what it must be."
                )
    loose = []
    for claim, shape in provider.pins.items():
        found = rule.find(*claim)
        if found is None:
            continue
        if all(re.fullmatch(shape, text, re.DOTALL) for text in found.texts):
            return ""
        loose.append(found.name)
    if loose:
        return (
            f"{' and '.join(loose)} leave open whose workload it is: a wildcard may not stand for "
            f"the owner, nor for the whole. Write it out, such as {provider.example}."
        )
    hint = ""
    if rule.find("job_workflow_ref") is not None:
        hint = " Anybody's repository may call a reusable workflow that it can see."
    wanted = ", ".join(".".join(claim) for claim in provider.pins)
    return (
        f"nothing in it says whose workload it is, so all of {provider.name} would fit: it needs "
        f"one of {wanted}, such as {provider.example}.{hint}"
    )


def judge_url(provider: Provider, url: str) -> str:
    """Why tokens of the issuer at `url` can't be told apart; empty if they can."""
    if provider is MICROSOFT:
        tenant = urlsplit(url).path.strip("/").partition("/")[0].lower()
        if not tenant or tenant in _ANY_TENANT:
            return (
                "names no tenant of yours: anybody at Microsoft could get such a token. Write the "
                "tenant's id, as it stands in the iss of its tokens."
            )
    return ""


def _is_cluster(host: str) -> bool:
    return host.startswith(("kubernetes.default", "oidc.eks.", "container.googleapis.com")) or (
        host.endswith(".oic.prod-aks.azure.com")
    )


def _begin(texts: Iterable[str], start: str) -> bool:
    return any(text.startswith(start) for text in texts)


def _texts(condition: Condition | None) -> tuple[str, ...]:
    return () if condition is None else condition.texts


def _has(rule: Rule, *names: str) -> bool:
    return any(rule.find(name) is not None for name in names)


def _advise_github(rule: Rule) -> Iterator[str]:
    subjects = _texts(rule.find("sub"))
    immutable = subjects and all(re.match("repo:[^*/:]+@[0-9]+/", text) for text in subjects)
    if not immutable and not _has(rule, "repository_id", "repository_owner_id"):
        yield (
            "names of owners and repositories can be somebody else's after a rename or a deletion: "
            "add repository_id, or write sub in its immutable form, repo:OWNER@ID/REPO@ID:…, "
            "which new repositories send anyway."
        )
    named = [*subjects, *_texts(rule.find("repository"))]
    if any("*" in re.sub("^repo:", "", text).partition(":")[0] for text in named):
        yield "a wildcard in the repository's name fits those that are made later too."
    elif not _has(rule, "repository", "repository_id") and not subjects:
        yield "every repository of the owner fits, those that are made later too."
    told = any(re.search(":(ref|environment|job_workflow_ref):", text) for text in subjects)
    pulls = any(text.endswith(":pull_request") for text in subjects)
    if pulls or "pull_request" in "".join(_texts(rule.find("event_name"))):
        yield "whoever may open a pull request runs what they like as this identity."
    elif any(re.fullmatch("repo:[^:]+:\\*", text) for text in subjects):
        yield "'*' doesn't reach over ':', so this sub fits pull requests alone; write the ref."
    elif not told and not _has(rule, "ref", "environment", "workflow_ref", "job_workflow_ref"):
        yield "every branch, tag and pull request of the repository fits: add ref or environment."
    if any(text.endswith("@*") for text in _texts(rule.find("job_workflow_ref"))):
        yield "the reusable workflow may come from any of its branches: name one after the '@'."


def _advise_gitlab(rule: Rule) -> Iterator[str]:
    subjects = _texts(rule.find("sub"))
    if not _has(rule, "project_id", "namespace_id"):
        yield "paths can be somebody else's after a rename: add project_id."
    if any("*" in text.partition(":ref_type:")[0] for text in subjects) or any(
        "*" in text for text in _texts(rule.find("project_path"))
    ):
        yield "a wildcard in the project's path fits those that are made later too."
    elif not subjects and not _has(rule, "project_path", "project_id"):
        yield "every project of the group fits, those that are made later too."
    told = any(re.search(":ref:.*[^*]$", text) for text in subjects)
    if not told and not _has(rule, "ref", "ref_protected", "environment_protected"):
        yield (
            "whoever may push a branch runs what they like as this identity: add "
            "'ref_protected: true', or ref and ref_type."
        )
    if _has(rule, "ref") and not _has(rule, "ref_type", "ref_protected"):
        yield "a tag may have the name of a branch: add ref_type."


def _advise_kubernetes(rule: Rule) -> Iterator[str]:
    account = rule.find(*ACCOUNT)
    subjects = _texts(rule.find("sub"))
    if any("*" in text for text in (*subjects, *_texts(account))):
        yield "a wildcard in the service account's name fits those that are made later too."
    elif not subjects and account is None and rule.find(*ACCOUNT_UID) is None:
        yield (
            "every service account of the namespace fits: add kubernetes.io.serviceaccount.name, "
            "or write sub."
        )


def _advise_google(rule: Rule) -> Iterator[str]:
    if _has(rule, "sub"):
        return
    yield "an address can be given to somebody else: write sub, the account's number."
    if not _has(rule, "email_verified"):
        yield "add 'email_verified: true': an address that isn't verified proves nothing."


def _advise_aws(rule: Rule) -> Iterator[str]:
    if any("*" in text for text in _texts(rule.find("sub"))):
        yield "a wildcard in the role's name fits those that are made later too."
    elif not _has(rule, "sub") and rule.find(AWS_CLAIMS, "principal_id") is None:
        yield "every role of the account fits: write sub, the role's ARN."


def _advise_other(rule: Rule) -> Iterator[str]:
    if any("*" in text for text in _texts(rule.find("sub"))):
        yield "a wildcard in sub fits workloads that are made later too: write it out if you can."


def _advise_nothing(rule: Rule) -> Iterator[str]:
    yield from ()


_GITHUB_SUBJECT = "repo:[^*/:]+/.+|([^*]+:)?(enterprise|repository(_owner)?(_id)?):[^*:]+(:[^*]+)?"
"""A subject can be made up of other claims too, of which some say nothing of whose it is."""

GITHUB = Provider(
    "GitHub",
    {
        ("sub",): _GITHUB_SUBJECT,
        ("repository",): r"[^*/]+/.+",
        ("repository_id",): _EXACT,
        ("repository_owner",): _EXACT,
        ("repository_owner_id",): _EXACT,
    },
    "'sub: repo:acme@123/shop@456:ref:refs/heads/main'",
    _advise_github,
)
GITLAB = Provider(
    "GitLab",
    {
        ("sub",): r"project_path:[^*/:]+/.+",
        ("project_path",): r"[^*/]+/.+",
        ("project_id",): _EXACT,
        ("namespace_path",): _EXACT,
        ("namespace_id",): _EXACT,
    },
    "'project_id: 22' with 'ref_protected: true'",
    _advise_gitlab,
)
KUBERNETES = Provider(
    "the cluster",
    {
        ("sub",): r"system:serviceaccount:[^*:]+:.+",
        NAMESPACE: _EXACT,
        ACCOUNT_UID: _EXACT,
    },
    "'sub: system:serviceaccount:prod:shop'",
    _advise_kubernetes,
)
GOOGLE = Provider(
    "Google",
    {("sub",): _EXACT, ("email",): _EXACT},
    "'sub: 110169484474386276334'",
    _advise_google,
)
MICROSOFT = Provider(
    "the tenant",
    {("sub",): _EXACT, ("oid",): _EXACT, ("azp",): _EXACT, ("appid",): _EXACT},
    "'oid' with the service principal's object id",
    _advise_nothing,
)
AWS = Provider(
    "AWS",
    {
        ("sub",): r"arn:aws[a-z-]*:(iam|sts)::[0-9]{12}:.+",
        (AWS_CLAIMS, "aws_account"): _EXACT,
        (AWS_CLAIMS, "principal_id"): _EXACT,
    },
    "'sub: arn:aws:iam::123456789012:role/shop'",
    _advise_aws,
)
OTHER = Provider(
    "the issuer",
    {("sub",): r"[^*]+|[^*]*[^*/:@|][/:@|][^*/:@|]*\*[^*/:@|]*"},
    "'sub: tenant/shop'",
    _advise_other,
)
