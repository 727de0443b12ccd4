"""Results for people and programs: terminal, JSON, HTML."""
