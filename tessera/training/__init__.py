"""Training of a model: the optimizer, the loop and its checkpoints, independent of the task."""
