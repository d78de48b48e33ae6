from __future__ import annotations

from troth.issuance import profiles
from troth.server.setting_words import describe_settings, name_environment
from troth.server.settings import Settings


def test_every_setting_is_described_with_type_and_default():
    described = describe_settings()
    names = [setting.name for setting in described]
    assert len(names) == len(set(names))
    assert {"data", "listen.public", "roles.uids", "limits.body_bytes", "crl.period"} <= set(names)
    for setting in described:
        assert setting.help.endswith("."), setting
        assert setting.type
        assert setting.default, setting
    by_name = {setting.name: setting for setting in described}
    assert by_name["lease"].type == "integer"
    assert by_name["lease"].default == "15"
    assert by_name["roles.uids"].type == "table"
    assert "text" in by_name["log.format"].type
    assert "sqlite" in by_name["database.url"].default


def test_no_two_settings_share_a_variable():
    names = [name_environment(setting.name) for setting in describe_settings()]
    assert len(names) == len(set(names))
    assert "TROTH_DATA" in names
    assert not {"TROTH_URL", "TROTH_TOKEN", "TROTH_CONFIG", "TROTH_PORT"} & set(names)


def test_the_defaults_are_the_profiles_own():
    settings = Settings()
    assert settings.ttl.x509_ceiling == profiles.X509_TTL_CEILING.total_seconds()
    assert settings.crl.lifetime == profiles.CRL_LIFETIME.total_seconds()
    assert settings.crl.lifetime >= settings.crl.period + profiles.OUTAGE.total_seconds()
