"""One model over several devices: each rank holds a share of the weights, and partial results are joined."""
