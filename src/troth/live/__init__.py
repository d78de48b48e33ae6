"""What is true now: who is cut off and what is revoked, with an epoch and a lease."""
