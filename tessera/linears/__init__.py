"""What stands where a plain linear stood: quantized, or split over devices. The model knows nothing of it."""
