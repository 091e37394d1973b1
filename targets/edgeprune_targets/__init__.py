"""Everything that depends on the device: profiles, typed graphs, builders, the latency model, the bundle."""
