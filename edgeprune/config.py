"""Options from `edgeprune.toml` and from `EDGEPRUNE_*` variables."""
