"""A nano of a few thousand weights, pages drawn without any fetched typeface, and nano's tokenizer."""

from __future__ import annotations

import dataclasses
from random import Random

from tessera.nano.pictures.canvas import Brush, Canvas
from tessera.nano.pictures.fonts import built_in
from tessera.nano.pictures.page import Page, Question, filled, unprinted
from tessera.nano.recipe import NANO

SMALL = dataclasses.replace(
    NANO,
    dim=32,
    head_dim=8,
    hidden_dim=48,
    vision_encoder=dataclasses.replace(
        NANO.vision_encoder, hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=2
    ),
)


def brush(seed: int, width: int = 320, height: int = 320) -> Brush:
    """A brush with Pillow's own typeface."""
    return Brush(Random(seed), [built_in()], max_width=width, max_height=height)


def tag(seed: int) -> Page:
    """A price tag with two questions: one answered from the picture, one not."""
    dice = Random(seed)
    name, price = dice.choice(("Tea", "Bread £", "Jam")), f"{dice.uniform(1, 30):.2f}"
    font = built_in().font(dice.choice((11, 16, 24)))
    canvas = Canvas(dice.randint(90, 160), dice.randint(50, 90))
    label, value = canvas.write(4, 28, name, font), canvas.write(4, 46, price, font)
    asked = filled("What is the price of {label}?", label=label)
    return canvas.page(
        [
            Question(asked, value, "receipt", clue=label),
            Question(unprinted("Is it in euros? €"), unprinted("no"), "receipt"),
        ]
    )
