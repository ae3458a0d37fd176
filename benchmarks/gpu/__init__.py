"""GPU checks at true shapes: correctness, and speed compared with the GPU's limits and transformers."""
