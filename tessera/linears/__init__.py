"""Replacements for the model's plain linears: quantized, or split over devices. The model is unaware of them."""
