"""The API's requests, results and routes: what the server, the CLI, agents and SDKs all speak."""
