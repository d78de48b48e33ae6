"""The outside world: one folder a kind of driver, one file a driver, one list of built-ins."""
