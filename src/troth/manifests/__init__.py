"""Manifests of every kind together: documents in, what each domain made of them out.

Each domain reads its own kinds with `troth.core.manifest`; here stands which kinds there are, and
what only shows when documents of several kinds are seen at once.
"""
