"""Open a model: from what a user names to a graph in canonical form, and what was recognised in it."""
