"""The machinery of `troth demo`: real processes, real proxies, and a story that checks itself."""
