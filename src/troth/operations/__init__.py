"""The system calls: one module a noun, one callable a verb; the one place where state meets the outside."""
