"""What brokers are told about who comes: a login that isn't meant would be another one's."""

from __future__ import annotations

from typing import Any

import pytest

from tests.fakes.natsoperator import NatsOperator
from troth.drivers.sinks import Target
from troth.drivers.sinks.kafka import KafkaSink
from troth.drivers.sinks.nats import NatsSink
from troth.drivers.sinks.place import parse_place


def identify_to_kafka(url: str, **fields: Any) -> dict[str, Any]:
    target = Target("siem", url, **fields)
    found = KafkaSink(target, parse_place("kafka", url), "hunter2")._identify()
    found.pop("ssl_context", None)
    return found


def test_kafka_is_logged_into_by_sasl_where_there_is_a_user():
    assert identify_to_kafka("kafka://localhost/t") == {"security_protocol": "PLAINTEXT"}
    assert identify_to_kafka("kafka+tls://k/t") == {"security_protocol": "SSL"}
    login = {
        "sasl_mechanism": "PLAIN",
        "sasl_plain_username": "troth",
        "sasl_plain_password": "hunter2",
    }
    assert identify_to_kafka("kafka+tls://k/t", user="troth") == {
        "security_protocol": "SASL_SSL",
        **login,
    }
    assert identify_to_kafka("kafka://localhost/t", user="troth") == {
        "security_protocol": "SASL_PLAINTEXT",
        **login,
    }


@pytest.mark.parametrize(
    ("user", "secret", "names"),
    [
        ("", "", set()),
        ("", "token", {"token"}),
        ("troth", "password", {"user", "password"}),
        ("", NatsOperator().credentials, {"user_jwt_cb", "signature_cb"}),
    ],
)
def test_nats_is_logged_into_by_what_the_secret_is(user, secret, names):
    url = "tls://n/a"
    sink = NatsSink(Target("siem", url, user=user), parse_place("nats", url), secret)
    assert set(sink._identify()) == names
