"""From codes to an index that answers queries."""
