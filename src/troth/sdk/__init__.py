"""What a Python service imports: whom to refuse, its own certificate, and enforcement."""
