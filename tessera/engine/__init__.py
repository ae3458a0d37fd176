"""Generation: runs many requests at once over one model, step by step, within a fixed amount of memory.

A step: `scheduler` decides how many tokens each request computes, `blocks` allocates their room in the
paged cache, `batch` lays them in one row, `runner` computes, `sampler` chooses, `engine` returns the text.
Everything but `loop` is synchronous and single-threaded, so a test can step it by hand.
"""
