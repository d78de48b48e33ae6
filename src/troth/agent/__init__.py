"""The node agent: attests callers, keeps their identities fresh, speaks the Workload API and SDS."""
