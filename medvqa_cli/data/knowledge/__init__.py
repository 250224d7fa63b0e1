"""Facts of a knowledge graph for a question."""
