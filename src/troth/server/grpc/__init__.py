"""gRPC on a listener of its own, for proxies that speak nothing else as well: mutual TLS, unary
calls. HTTP/2 is grpclib's and h2's; bounds and endings are ours (see ADR 7)."""
