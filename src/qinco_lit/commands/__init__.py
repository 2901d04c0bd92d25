"""A file per command: what it does beyond its library call."""
