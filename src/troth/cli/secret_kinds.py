"""Kinds of hard-coded credentials, and what troth has in place of each.

The names in the first two columns are those of detect-secrets: the class that finds a kind, and
the type in its results and baselines. Where troth has nothing yet, the table says so: a service of
somebody else that knows only its own keys is not helped by an identity.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from troth.core.manifest.problem import Severity
from troth.core.manifest.report import Rule

CLAIM = (
    "A credential in a file works for everybody who has a copy of it: revoke it, then replace it."
)

PRIVATE_KEY = (
    "Let the agent hold the key: a workload gets an X.509-SVID with a key of its own, renewed "
    "before it ends (`troth svid fetch`, `troth run`, or `troth.sdk`)."
)
BEARER = (
    "Get a token when it is needed: `troth.sdk.tokens.TokenSource` or `troth token request` "
    "obtains a short-lived access token for the workload's SVID, bound to its key where it can be."
)
LOGIN = (
    "Where both sides are yours: a database takes the workload's X.509-SVID as client certificate "
    "instead of a password, an API takes an access token from `troth.sdk.tokens.TokenSource`."
)
AWS = (
    "troth has no connector for AWS yet. Use the platform's own workload identity where it runs "
    "there; elsewhere IAM can be told to trust JWT-SVIDs as web identities (an OpenID provider, "
    "for the issuer at /svid), which we haven't tried with AWS. Else keep it in a secret store."
)
CLOUD = (
    "troth has no connector for this cloud yet. Use the platform's own workload identity, else "
    "keep the key in a secret store, and out of the tree."
)
FORGE = (
    "troth has no connector for it yet. In a pipeline use the token that the forge makes for each "
    "job, or publish by its OpenID token (trusted publishing) where the registry takes one; to "
    "troth a pipeline proves itself by the same token (a manifest of kind Issuer). Else keep it in "
    "a secret store."
)
FOREIGN = (
    "troth has no connector for this service yet, and the service takes only its own keys: keep "
    "it in a secret store and give it to the program at run time."
)
GUESS = (
    "If it opens something of yours, let the workload prove itself instead (an X.509-SVID, or an "
    "access token from `troth.sdk.tokens.TokenSource`); if it opens something of others, keep it "
    "in a secret store. If it is no secret, say so at the end of the line: "
    "`# pragma: allowlist secret`."
)


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind. `guess` marks what is known by its looks alone, and gives way to a named kind."""

    detector: str
    type: str
    rule: str
    name: str
    replacement: str
    guess: bool = False


KINDS: tuple[Kind, ...] = (
    Kind("PrivateKeyDetector", "Private Key", "private-key", "a private key", PRIVATE_KEY),
    Kind("JwtTokenDetector", "JSON Web Token", "json-web-token", "a JSON Web Token", BEARER),
    Kind(
        "BasicAuthDetector",
        "Basic Auth Credentials",
        "password-in-url",
        "a password in a URL",
        LOGIN,
    ),
    Kind("AWSKeyDetector", "AWS Access Key", "aws-key", "a key of AWS", AWS),
    Kind(
        "AzureStorageKeyDetector",
        "Azure Storage Account access key",
        "azure-storage-key",
        "a key of Azure Storage",
        CLOUD,
    ),
    Kind("IbmCloudIamDetector", "IBM Cloud IAM Key", "ibm-cloud-key", "a key of IBM Cloud", CLOUD),
    Kind(
        "IbmCosHmacDetector",
        "IBM COS HMAC Credentials",
        "ibm-storage-key",
        "a key of IBM's object storage",
        CLOUD,
    ),
    Kind(
        "SoftlayerDetector", "SoftLayer Credentials", "softlayer-key", "a key of SoftLayer", CLOUD
    ),
    Kind(
        "CloudantDetector", "Cloudant Credentials", "cloudant-key", "credentials of Cloudant", CLOUD
    ),
    Kind("GitHubTokenDetector", "GitHub Token", "github-token", "a token of GitHub", FORGE),
    Kind("GitLabTokenDetector", "GitLab Token", "gitlab-token", "a token of GitLab", FORGE),
    Kind("NpmDetector", "NPM tokens", "npm-token", "a token of npm", FORGE),
    Kind("PypiTokenDetector", "PyPI Token", "pypi-token", "a token of PyPI", FORGE),
    Kind(
        "ArtifactoryDetector",
        "Artifactory Credentials",
        "artifactory-key",
        "credentials of Artifactory",
        FORGE,
    ),
    Kind("SlackDetector", "Slack Token", "slack-token", "a token of Slack", FOREIGN),
    Kind("StripeDetector", "Stripe Access Key", "stripe-key", "a key of Stripe", FOREIGN),
    Kind(
        "SquareOAuthDetector", "Square OAuth Secret", "square-secret", "a secret of Square", FOREIGN
    ),
    Kind("TwilioKeyDetector", "Twilio API Key", "twilio-key", "a key of Twilio", FOREIGN),
    Kind("SendGridDetector", "SendGrid API Key", "sendgrid-key", "a key of SendGrid", FOREIGN),
    Kind(
        "MailchimpDetector", "Mailchimp Access Key", "mailchimp-key", "a key of Mailchimp", FOREIGN
    ),
    Kind("OpenAIDetector", "OpenAI Token", "openai-token", "a token of OpenAI", FOREIGN),
    Kind(
        "DiscordBotTokenDetector",
        "Discord Bot Token",
        "discord-token",
        "a token of Discord",
        FOREIGN,
    ),
    Kind(
        "TelegramBotTokenDetector",
        "Telegram Bot Token",
        "telegram-token",
        "a token of Telegram",
        FOREIGN,
    ),
    Kind(
        "KeywordDetector", "Secret Keyword", "keyword", "what is named like a secret", GUESS, True
    ),
    Kind(
        "Base64HighEntropyString",
        "Base64 High Entropy String",
        "random-base64",
        "a text that looks random (base64)",
        GUESS,
        True,
    ),
    Kind(
        "HexHighEntropyString",
        "Hex High Entropy String",
        "random-hex",
        "a text that looks random (hexadecimal)",
        GUESS,
        True,
    ),
)
"""Every detector that is used. `IPPublicDetector` isn't: an address is no credential."""

BY_TYPE: Mapping[str, Kind] = {kind.type: kind for kind in KINDS}


def find_severity(kind: Kind) -> Severity:
    """A guess is a warning. Both fail the search: a guess is confirmed or allowed by a person."""
    return Severity.WARNING if kind.guess else Severity.ERROR


SECRET_RULES: Mapping[str, Rule] = {
    f"secret/{kind.rule}": Rule(
        f"secret/{kind.rule}",
        f"Hard-coded: {kind.name}.",
        f"{CLAIM} {kind.replacement}",
        find_severity(kind),
    )
    for kind in KINDS
}

REPLACEMENTS: Mapping[str, str] = {f"secret/{kind.rule}": kind.replacement for kind in KINDS}
KIND_NAMES: Mapping[str, str] = {f"secret/{kind.rule}": kind.name for kind in KINDS}
