"""A witness: a server of its own that cosigns checkpoints of other people's logs.

It has no database and knows nothing of the server in `troth.server`, whose listeners it uses. All
that it must never forget is one file a log: the last checkpoint that it cosigned.
"""
