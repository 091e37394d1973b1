"""Time and model: what a device takes for the dense model and the compiled one, and what a runtime lacks here."""
