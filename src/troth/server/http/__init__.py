"""HTTP on the server: one module a protocol, and the only place that knows status codes."""
