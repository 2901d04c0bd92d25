"""From codes to answers: decoders, lists, the index, and the searcher of it."""
