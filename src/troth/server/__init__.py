"""The server: configuration, wiring, HTTP and background work."""
