"""State: one SQL store with a gateway a table, `transact` and `read`, and the journal."""
