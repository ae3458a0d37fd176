"""Turns linears into quantized linears, from outside the model: the model knows nothing of it."""
