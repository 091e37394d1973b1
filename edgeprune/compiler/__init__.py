"""The order of work: open a model, prove, decide, divide, time, deliver. `edgeprune.api` is its only caller."""
