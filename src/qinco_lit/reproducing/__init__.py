"""The experiments of the papers: what is run (scale, tasks), in which state it is, the engine, its records."""
