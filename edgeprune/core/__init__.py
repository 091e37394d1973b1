"""Ground floor: nouns and pure functions over the graph; nothing here runs a model."""
