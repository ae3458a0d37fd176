"""Quantization of a checkpoint into our own folder format; builds on reading models, not on running them."""
