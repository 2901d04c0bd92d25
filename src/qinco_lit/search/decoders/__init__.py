"""Fast, approximate decoders of stored codes: additive and pairwise."""
