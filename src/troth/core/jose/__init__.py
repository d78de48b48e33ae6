"""JSON Web Keys and signatures (RFC 7515 to 7518), of which several domains and formats consist."""
