"""Every function of troth that reads bytes or texts, and the fuzz target that feeds it.

`FUZZED` is held to: each function must really be called while its target runs. A parser that
appears in the source and stands neither here nor in `tests.fuzz.reasons` fails a test, and so does
one that is gone.
"""

from __future__ import annotations

from tests.fuzz.authorization import AUTHORIZATION
from tests.fuzz.logs import LEDGER as LOGS
from tests.fuzz.searches import LEDGER as SEARCHES
from tests.fuzz.services import SERVICES
from tests.fuzz.sinks import LEDGER as SINKS
from tests.fuzz.witnesses import LEDGER as WITNESSES

FUZZED: dict[str, str] = {
    **AUTHORIZATION,
    **SERVICES,
    **LOGS,
    **SEARCHES,
    **SINKS,
    **WITNESSES,
    "agent-answer": """
        agent.connection._load_credential
        agent.connection._read_body
        agent.connection._read_failure
        agent.membership._read_answer
    """,
    "agent-socket": """
        agent.call.Call._read
        agent.call._read_timeout
        agent.peer.read_peer
        agent.sds._read_requests
    """,
    "asgi": """
        sdk.asgi.find_certificate
        sdk.guard.PeerGuard._read
    """,
    "backup-frames": """
        store.rows.read_rows
        store.schema.read_revision
        store.sqlite.parse_url
        wire.backup._read_frame
        wire.backup.parse_backup
    """,
    "bundle": """
        wire.bundle._parse_authority
        wire.bundle._parse_kid
        wire.bundle._read_integer
        wire.bundle._read_public_key
        wire.bundle.parse_bundle
    """,
    "cgroup": """
        identity.selectors.Selector.parse
    """,
    "client-certificate": """
        issuance.der.read_signer
        issuance.presented.is_signed_by
        issuance.presented.read_presented
    """,
    "config": """
        core.endpoint.parse_endpoint
        core.ids.SpiffeId.parse
        core.ids.TrustDomain.parse
        server.config._parse_address
        server.config._parse_domain
        server.config._parse_grpc
        server.config._read_authorities
        server.config.load_config
        server.reading.Reading.convert
        server.reading._read_text
        server.reading._read_toml
        server.reading.read_trusted
        server.setting_words._read_help
    """,
    "csr": """
        issuance.csr._load
        issuance.csr._read_public_key
        issuance.csr.parse_csr
        issuance.der.read_element
        issuance.der.read_elements
    """,
    "decision-record": """
        archive.record.decode_record
    """,
    "decision-segment": """
        archive.segment.parse_footer
        archive.segment.parse_header
        archive.following.DecisionFollower._read_segment
        archive.following.DecisionFollower.read
    """,
    "device-bundle": """
        enroll.server.read_bundle
    """,
    "device-credential": """
        enroll.server.read_credential
    """,
    "device-files": """
        enroll.device.Manufactured.make
        enroll.device.read_roots
        enroll.folder._load_key
    """,
    "device-problem": """
        enroll.server.read_problem
    """,
    "device-server": """
        enroll.server._check_server
    """,
    "enrolment-code": """
        operations.enrolment.parse_code
    """,
    "enrolment-state": """
        enroll.folder.Enrolment.due
        enroll.folder.Enrolment.end
        enroll.folder.Folder.load
    """,
    "http1": """
        server.http.api.Api._read_request
        server.http.app._read_client_id
        server.http.bodies.decode_segments
        server.http.bodies.parse_query
        server.http.bodies.read_body
        server.http.exchange.read_peer
        server.http.protocol._describe_connection
        wire.api.routes._refuse_duplicates
        wire.api.routes.parse_request
    """,
    "installation": """
        server.installation.read_installation
    """,
    "join-token": """
        operations.token.parse_token
    """,
    "json-lines": """
        wire.api.client.ApiClient.stream
        wire.api.client._parse_line
        wire.api.client._read_lines
    """,
    "jwk": """
        core.jose.jwk._load_ec
        core.jose.jwk._load_okp
        core.jose.jwk._load_rsa
        core.jose.jwk.load_jwk
        core.jose.jwk.load_key
        core.jose.jwk.parse_key
    """,
    "jwt-svid": """
        core.jose.claims._read_time
        core.jose.jwk.decode_base64url
        core.jose.jws._load_object
        core.jose.jws.parse_token
        issuance.jwtsvid._parse_token
        issuance.jwtsvid._read_subject
    """,
    "kept-state": """
        agent.vault.parse_state
    """,
    "key-encryption-key": """
        drivers.keystores.kek._decode
        drivers.references._read_file
        drivers.references.read_reference
    """,
    "key-file": """
        drivers.keystores.file._read_file
        drivers.keystores.sealed.SealedKeystore._open
        drivers.keystores.sealed.SealedKeystore._unseal
    """,
    "discovery": """
        wire.oauth.jwks._parse_object
        wire.oauth.jwks.parse_discovery
    """,
    "issuer-answer": """
        drivers.issuers.https._read_address
        drivers.issuers.https.read_max_age
    """,
    "issuer-manifest": """
        identity.issuer_fields._read_algorithm
        identity.issuer_fields._read_algorithms
        identity.issuer_fields._read_authorities
        identity.issuer_fields._read_claim_text
        identity.issuer_fields._read_conditions
        identity.issuer_fields._read_flag
        identity.issuer_fields._read_issuer_url
        identity.issuer_fields._read_rule
        identity.issuer_fields._read_rules
        identity.issuer_fields._read_texts
        identity.issuer_fields._read_url
    """,
    "key-set": """
        wire.oauth.jwks._read_key
        wire.oauth.jwks.parse_key_set
    """,
    "manifest": """
        identity.readers._read_dns_name
        identity.readers.read_dns_names
        identity.readers.read_expiry
        identity.naming.Naming.parse
        identity.pattern.Pattern._parse_numbers
        identity.pattern.Pattern.parse
        identity.template_fields._read_lifetime
        identity.template_fields._read_limit
        identity.template_fields._read_match
        identity.template_fields._read_naming
        identity.template_fields._read_pattern
        identity.template_fields._read_prefix
        identity.template_fields._read_span
        identity.template_fields._read_start
    """,
    "node-file": """
        agent.credential.Credential.signer
        agent.credential.CredentialFile.load
        agent.credential.read_private
        cli.explanation.find_node
    """,
    "node-files": """
        agent.credential.read_roots
        agent.machine.Machine._read_chain
        agent.machine.Machine._read_key
        agent.machine._read
        cli.chain.read_certificates
    """,
    "node-sync": """
        agent.connection.Connection.stream
        agent.snapshot._read_crls
        agent.snapshot._read_entry
        agent.snapshot._read_jwks
        agent.snapshot._read_offer
        agent.snapshot.read_snapshot
    """,
    "peer": """
        sdk.listener.describe_tls
    """,
    "proc": """
        drivers.attestors.procfs.read_proc_file
        drivers.attestors.procfs.read_start_time
        drivers.attestors.procfs.read_user
        drivers.attestors.unix._read_link
    """,
    "received-certificate": """
        agent.credential.check_roots
        agent.credential.read_leaf
        cli.chain.load_chain
    """,
    "result": """
        wire.api.problems.parse_problem
        wire.api.routes.parse_failure
        wire.api.routes.parse_result
    """,
    "revocations": """
        sdk.stream._Connection._read_body
        sdk.stream._Connection.follow
        sdk.stream._parse_line
    """,
    "sds-request": """
        wire.sds.parse_request
    """,
    "sealed-cache": """
        agent.sealing.unseal
    """,
    "secret-baseline": """
        cli.secret_baseline.parse_baseline
        cli.secret_baseline.read_baseline
    """,
    "secret-text": """
        cli.secret_text._is_small_yaml
        cli.secret_text.parse_lines
        cli.secret_text.read_text
    """,
    "targets": """
        cli.targets._read_reload
        cli.targets._read_target
        cli.targets.read_targets
    """,
    "time": """
        cli.words.parse_duration
        cli.words.parse_moment
    """,
    "traceparent": """
        core.tracing.parse_traceparent
    """,
    "workload-answer": """
        cli.svid._render_crl
        cli.svid._render_key
        sdk.credential.X509Credential.show
        sdk.tls._load
        sdk.workload.WorkloadApi.validate_jwt
        sdk.workload._convert_update
        sdk.workload._read_update
    """,
    "workload-message": """
        wire.protobuf.parse_message
        wire.workload.WorkloadMessages.parse_jwt_svid_request
        wire.workload.WorkloadMessages.parse_validate_request
    """,
    "x509pop-certificate": """
        identity.x509pop.find_trust_domain
        identity.x509pop.load_authorities
    """,
    "x509pop-evidence": """
        identity.x509pop._load_chain
        wire.x509pop._decode
        wire.x509pop.parse_evidence
    """,
    "yaml": """
        core.manifest.field.read_members
        core.manifest.reader._read_label_value
        core.manifest.reader.read_duration
        core.manifest.reader.read_items
        core.manifest.reader.read_labels
        core.manifest.reader.read_name
        core.manifest.reader.read_pattern
        core.manifest.reader.read_text
        core.manifest.reader.read_ttl
        identity.readers._read_node_name
        identity.readers._read_selector
        identity.readers.read_kind
        identity.readers.read_nodes
        identity.readers.read_path
        identity.readers.read_selectors
        manifests.reading._parse_document
        manifests.reading._read_kind
        manifests.reading.parse_manifests
        wire.yaml._read_mapping
        wire.yaml._read_node
        wire.yaml._read_scalar
        wire.yaml._read_sequence
        wire.yaml._read_stream
        wire.yaml.load_documents
    """,
}
"""By target: the functions that its inputs reach."""
