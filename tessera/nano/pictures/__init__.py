"""Nano's teaching material: labelled pictures drawn from a seed, each with several questions.

`page` holds what a drawing is, `canvas` our own renderer, `pdf` the way in for every renderer that
prints PDF. `text`, `charts`, `papers` and `scenes` decide what is drawn; `wear` makes it look used.
"""
