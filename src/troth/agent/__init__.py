"""The node agent: attests callers, keeps their identities fresh, speaks Workload API and SDS."""
