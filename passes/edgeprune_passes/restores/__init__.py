"""How tokens come back, one mode a file: what each makes of the stream behind a cut, and of what the cut saw."""
