"""What can be proved about the past: Merkle trees over records, and proofs that one is in it."""
