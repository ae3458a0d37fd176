"""Hand-written kernels, each beside its plain-torch twin, which is its oracle and its fallback."""
