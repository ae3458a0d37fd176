"""Hand-written kernels, each with a plain-torch twin as its oracle and fallback."""
