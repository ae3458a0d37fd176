"""A GPU at true shapes: whether it computes right, and how fast, beside its own limits and transformers."""
