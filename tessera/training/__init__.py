"""Teaching a model: the optimizer, the loop and its checkpoints; it knows no task and no picture."""
