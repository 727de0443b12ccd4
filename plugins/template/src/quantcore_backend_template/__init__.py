"""template as a quantcore backend."""
