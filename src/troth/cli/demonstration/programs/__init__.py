"""The workloads of the demo: small real programs that are told what to do on standard input."""
