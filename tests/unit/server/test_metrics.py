from __future__ import annotations

from troth.server.metrics import Metrics


def test_calls_are_counted_by_operation_and_outcome():
    metrics = Metrics()
    metrics.observe("identity.ls", "ok", 0.002)
    metrics.observe("identity.ls", "ok", 99.0)
    metrics.observe("identity.ls", "not_found", 0.1)
    text = metrics.render(full=False).decode()
    labels = 'operation="identity.ls",outcome="ok"'
    assert f"troth_operation_seconds_count{{{labels}}} 2.0" in text
    assert f'troth_operation_seconds_bucket{{le="0.0025",{labels}}} 1.0' in text
    assert 'outcome="not_found"} 1.0' in text


def test_gauges_and_failures_show_what_the_background_tells():
    metrics = Metrics()
    metrics.show("troth_journal_head", 12)
    metrics.follow("troth_snapshot_epoch", lambda: 11)
    metrics.show("troth_snapshot_age_seconds", 0.5)
    metrics.count_failure("crl.publish")
    text = metrics.render(full=False).decode()
    assert "troth_journal_head 12.0" in text
    assert "troth_snapshot_epoch 11.0" in text
    assert "troth_snapshot_age_seconds 0.5" in text
    assert 'troth_background_failures_total{task="crl.publish"} 1.0' in text


def test_the_process_shows_in_full_alone_and_two_servers_share_nothing():
    first, second = Metrics(), Metrics()
    first.count_failure("x")
    assert b"process_resident_memory_bytes" in first.render(full=True)
    assert b"process_" not in first.render(full=False)
    assert b'task="x"' not in second.render(full=True)
