"""Running models on data: readers, statistics, drift, PyTorch sources and references."""
