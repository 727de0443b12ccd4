"""Every result as a value: numbers with units, ready for JSON, that never render themselves."""
