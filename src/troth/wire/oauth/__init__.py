"""OAuth 2 as bytes and values: requests in forms, answers and documents in JSON."""
