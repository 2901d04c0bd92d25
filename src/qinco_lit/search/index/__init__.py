"""The index of stored codes: faiss lists, and the directory that holds all its parts."""
