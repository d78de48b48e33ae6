"""What is issued and how: profiles; plan, lint, sign, check; authorities; revocation lists."""
