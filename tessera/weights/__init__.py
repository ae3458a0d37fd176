"""Checkpoints: formats in, named tensors out, and back. Names inside are the official layout's."""
