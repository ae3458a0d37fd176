"""Reading and writing of checkpoint formats; inside, tensors have the official layout's names."""
