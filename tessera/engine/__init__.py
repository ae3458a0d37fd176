"""Generation: many requests at once over one model, in steps, within a fixed memory.

A step: `scheduler` chooses who computes how many tokens, `blocks` gives them room in the paged
cache, `batch` lays them in one row, `runner` computes, `sampler` chooses, `engine` hands out.
Everything but `loop` is synchronous and single-threaded, so a test can step it by hand.
"""
