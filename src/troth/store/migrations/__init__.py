"""Numbered migrations, run by `troth.store.schema`; expand first, contract a release later."""
