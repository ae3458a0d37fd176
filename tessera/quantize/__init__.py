"""A checkpoint made smaller, into our own quantized folder; above the reading of models, below their use."""
