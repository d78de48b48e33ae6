"""The system calls: one module a noun, one callable a verb; here state meets the outside."""
