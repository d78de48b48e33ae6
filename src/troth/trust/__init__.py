"""Trust: how much is relied on whom, from evidence that can be named."""
