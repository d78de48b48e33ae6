"""What has been: decisions, at rates that no journal should carry, in append-only segments.

`record` says what is kept of one, `segment` how a file holds them, `writing` and `log` how they
become durable together, and `proof` how one of them is shown to be there. The Merkle root of each
closed segment becomes an event of the journal (`troth.operations.decisionlog`).
"""
