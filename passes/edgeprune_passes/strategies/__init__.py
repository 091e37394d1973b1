"""Ways to choose or merge tokens, one a file."""
