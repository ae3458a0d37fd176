"""One model over several devices: each rank holds a shard of the weights, and partial results are combined."""
