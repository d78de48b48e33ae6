"""Who a workload is: identity, owner, kind, life cycle, selectors and what evidence proves."""
