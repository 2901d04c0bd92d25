"""Vectors as training batches, a database, queries and their true neighbours."""
