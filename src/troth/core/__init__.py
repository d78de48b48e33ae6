"""What every room may stand on: ids, time, randomness, errors and the event base. No I/O."""
