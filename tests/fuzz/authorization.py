"""The part of the ledger about rules: as they are written and told, tested, and asked about by
proxies."""

from __future__ import annotations

AUTHORIZATION: dict[str, str] = {
    "declared": """
        identity.client_fields._read_certificate
        identity.client_fields._read_certificates
        identity.client_fields._read_delegates
        identity.client_fields._read_key
        identity.client_fields._read_keys
        identity.client_fields._read_roles
        policy.resource_manifest._read_actions
        policy.resource_manifest._read_identifier
        policy.resource_manifest._read_identifiers
        policy.resource_manifest._read_ttls
        policy.resource_manifest._read_servers
        policy.resource_manifest._read_word
        policy.role_manifest._read_granted
        policy.role_manifest._read_names
        policy.role_manifest._read_permission
        policy.role_manifest._read_permissions
        policy.role_manifest.read_action
    """,
    "policies": """
        live.parties._read_evidence
        live.parties._read_party
        live.parties.read_party
        live.rules._read_fact
        live.rules._read_rule
        live.rules._read_value
        live.rules.read_condition
        live.rules.read_resource
        live.rules.read_rule
        live.share.read_rules
    """,
    "rule-condition": """
        policy.condition_manifest._parse_network
        policy.condition_manifest._read_above
        policy.condition_manifest._read_at_least
        policy.condition_manifest._read_at_most
        policy.condition_manifest._read_below
        policy.condition_manifest._read_bound
        policy.condition_manifest._read_contains
        policy.condition_manifest._read_end
        policy.condition_manifest._read_in
        policy.condition_manifest._read_is
        policy.condition_manifest._read_known
        policy.condition_manifest._read_like
        policy.condition_manifest._read_meets
        policy.condition_manifest._read_member
        policy.condition_manifest._read_networks
        policy.condition_manifest._read_operator
        policy.condition_manifest._read_parts
        policy.condition_manifest._read_same
        policy.condition_manifest._read_segment_word
        policy.condition_manifest._read_segments
        policy.condition_manifest._read_start
        policy.condition_manifest._read_tests
        policy.condition_manifest._read_value
        policy.condition_manifest._read_values
        policy.condition_manifest.read_condition
        policy.condition_manifest.read_networks
    """,
    "window": """
        policy.condition_manifest._read_clock
        policy.condition_manifest._read_days
        policy.condition_manifest._read_moment
        policy.condition_manifest._read_window
        policy.condition_manifest._read_windows
        policy.condition_manifest._read_zone
        policy.condition_manifest.parse_moment
    """,
    "cedar-policy": """
        policy.raw._parse
        policy.raw._read_actions
        policy.raw._read_path
        policy.raw._read_resources
        policy.raw._read_subjects
        policy.raw.read_raw
        policy.schema._read_error
    """,
    "inquiry": """
        policy.decision._read_number
        policy.inquiry.read_attributes
        policy.inquiry.read_told
    """,
    "policy-manifest": """
        policy.policy_manifest._read_actions
        policy.policy_manifest._read_cedar
        policy.policy_manifest._read_effect
        policy.policy_manifest._read_granted
        policy.policy_manifest._read_moment
        policy.policy_manifest._read_names
        policy.policy_manifest._read_relaxed
        policy.policy_manifest._read_resources
        policy.policy_manifest._read_segment_networks
        policy.policy_manifest._read_subjects
        policy.policy_manifest._read_type_name
        policy.protection_manifest._read_attributes.read
        policy.protection_manifest._read_audience
        policy.protection_manifest._read_choice
        policy.protection_manifest._read_glob
        policy.protection_manifest._read_host
        policy.protection_manifest._read_instance
        policy.protection_manifest._read_instances
        policy.protection_manifest._read_route
        policy.protection_manifest._read_routes
        policy.protection_manifest._read_type
        policy.role_manifest._read_when
        policy.role_manifest.read_when
    """,
    "policy-cases": """
        cli.manifest.load_files
        cli.policy_cases._read
        cli.policy_cases.render_junit
        manifests.cases._read_action
        manifests.cases._read_answer
        manifests.cases._read_case
        manifests.cases._read_facts
        manifests.cases._read_mapping
        manifests.cases._read_moment
        manifests.cases._read_names
        manifests.cases._read_resource
        manifests.cases._read_subject
        manifests.cases._read_value
        manifests.cases.read_cases
    """,
    "places": """
        drivers.geo.load_locator
        drivers.geo.table._read_rows
    """,
    "recorded-facts": """
        policy.replay._read_value
        policy.replay.read_facts
    """,
    "forwarded-certificate": """
        wire.ext_authz._decode
        wire.ext_authz._read_elements
        wire.ext_authz.read_bare_pem
        wire.ext_authz.read_escaped_pem
        wire.ext_authz.read_forwarded
    """,
    "proxy-request": """
        core.address.read_address
        server.http.enforcement._read_credentials
        server.http.enforcement._read_envoy
        server.http.enforcement._read_last
        server.http.enforcement._read_nginx
        server.http.enforcement._read_one
        server.http.enforcement._read_traefik
        wire.ext_authz.make_question
    """,
    "request-path": """
        policy.http_routes._decode
        policy.http_routes._decode_one
    """,
    "envoy-check": """
        wire.ext_authz_grpc.parse_check
    """,
    "envoy-connection": """
        server.grpc.call._read
        server.grpc.connection.GrpcConnection.connection_made
    """,
}
"""By target: the functions that its inputs reach."""
