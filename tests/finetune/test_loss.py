"""Packing is exact, and the loss is that of separate passes, of whole logits, and of transformers' own code."""

from __future__ import annotations

from array import array
from pathlib import Path
from random import Random

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image as PILImage

from tessera.finetune import loss
from tessera.finetune.loss import checkpoint_blocks, mark
from tessera.finetune.packing import Order, Pack, packs
from tessera.finetune.samples import Picture, Sample
from tessera.model.attention import DensePlan
from tessera.model.pixtral import Pixtral
from tessera.sources import ImageLimits
from tests.engine.tiny import CONFIG, VISION, tiny_model

EXACT = 1e-6


def sample(length: int, seed: int, picture: Picture | None = None) -> Sample:
    """Random tokens, some labelled, after an image if there is one."""
    dice, head = Random(seed), [1]
    if picture is not None:
        rows, columns = picture.grid
        head += ([VISION.image_token_id] * columns + [VISION.image_break_token_id]) * rows
        head[-1] = VISION.image_end_token_id
    ids = [*head, *(dice.randrange(20, CONFIG.vocab_size) for _ in range(length))]
    labels = bytes(len(head)) + bytes(dice.randrange(2) for _ in range(length - 1)) + b"\1"
    return Sample("line 1", "text", array("i", ids), labels, () if picture is None else (picture,))


def picture(folder: Path, columns: int, rows: int, seed: int) -> Picture:
    path = folder / f"{seed}.png"
    size = VISION.token_size
    pixels = Random(seed).randbytes(columns * rows * size * size * 3)
    PILImage.frombytes("RGB", (columns * size, rows * size), pixels).save(path)
    return Picture(path, VISION.image_size, (rows, columns))


def mixed(folder: Path) -> list[Sample]:
    """Two samples with images of different sizes and two of text."""
    return [
        sample(9, 1, picture(folder, 3, 2, 1)),
        sample(5, 2),
        sample(12, 3, picture(folder, 1, 4, 2)),
        sample(17, 4),
    ]


def descend(model: Pixtral, parts: list[Pack]) -> tuple[float, dict[str, torch.Tensor]]:
    """The step's loss and the gradients of a step's passes, as the training loop adds them."""
    model.zero_grad()
    total = 0.0
    for pack in parts:
        images = [each.pixels(VISION, ImageLimits()) for each in pack.images]
        marks = mark(model, pack, model.encode_images(images) if images else [])
        (marks.loss / len(parts)).backward()
        total += float(marks.loss.detach()) / len(parts)
    return total, {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("tokens_per_pass", [1000, 45, 30])
def test_packed_and_unpacked_are_one_loss_and_one_gradient(tokens_per_pass: int, tmp_path: Path) -> None:
    samples, model = mixed(tmp_path), tiny_model()
    packed, alone = packs(samples, tokens_per_pass), packs(samples, 1)
    assert len(packed) < len(alone) == 4
    loss_packed, gradients_packed = descend(model, packed)
    loss_alone, gradients_alone = descend(model, alone)
    assert abs(loss_packed - loss_alone) < EXACT
    for name, gradient in gradients_alone.items():
        torch.testing.assert_close(gradients_packed[name], gradient, rtol=1e-4, atol=EXACT, msg=name)


def test_the_loss_is_the_mean_over_labelled_tokens_of_whole_logits(tmp_path: Path) -> None:
    samples, model = mixed(tmp_path), tiny_model()
    sums, count = 0.0, 0
    for each in samples:  # one at a time, all logits, shifted as textbooks do
        images = [one.pixels(VISION, ImageLimits()) for one in each.images]
        ids = torch.tensor(list(each.ids))
        with torch.no_grad():
            embedded = model.embed(ids, model.encode_images(images) if images else [])
            logits = model.logits(model(embedded, DensePlan([len(ids)])))
        wanted = torch.where(torch.tensor(list(each.labels)) == 1, ids, -100)
        sums += float(F.cross_entropy(logits[:-1], wanted[1:], reduction="sum"))
        count += int((wanted != -100).sum())
    ours, _ = descend(model, packs(samples, 1000))
    assert abs(ours - sums / count) < EXACT


def test_the_loss_is_that_of_transformers() -> None:
    """The text decoder with our weights in their names; q and k rows are in the other order of rotary halves."""
    transformers = pytest.importorskip("transformers")
    model, text = tiny_model(), sample(40, 7)
    theirs = transformers.MistralForCausalLM(
        transformers.MistralConfig(
            vocab_size=CONFIG.vocab_size, hidden_size=CONFIG.dim, intermediate_size=CONFIG.hidden_dim,
            num_hidden_layers=CONFIG.n_layers, num_attention_heads=CONFIG.n_heads,
            num_key_value_heads=CONFIG.n_kv_heads, head_dim=CONFIG.head_dim, rms_norm_eps=CONFIG.norm_eps,
            rope_theta=CONFIG.rope_theta, sliding_window=None, tie_word_embeddings=False,
        )
    ).eval()  # fmt: skip
    theirs.load_state_dict(_in_their_names(model))
    ids = torch.tensor([list(text.ids)])
    labels = torch.where(torch.tensor([list(text.labels)]) == 1, ids, -100)
    with torch.no_grad():
        wanted = float(theirs(input_ids=ids, labels=labels).loss)
    assert abs(descend(model, packs([text], 1))[0] - wanted) < 1e-5


def _in_their_names(model: Pixtral) -> dict[str, torch.Tensor]:
    names = {
        "attention.wq": "self_attn.q_proj", "attention.wk": "self_attn.k_proj", "attention.wv": "self_attn.v_proj",
        "attention.wo": "self_attn.o_proj", "feed_forward.w1": "mlp.gate_proj", "feed_forward.w2": "mlp.down_proj",
        "feed_forward.w3": "mlp.up_proj", "attention_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm",
    }  # fmt: skip
    found = {
        "model.embed_tokens.weight": model.tok_embeddings.weight,
        "model.norm.weight": model.norm.weight,
        "lm_head.weight": model.output.weight,
    }
    for number, layer in enumerate(model.layers):
        for ours, other in names.items():
            weight = layer.get_parameter(f"{ours}.weight")
            if ours in ("attention.wq", "attention.wk"):  # neighbours become halves
                weight = weight.unflatten(0, (-1, CONFIG.head_dim // 2, 2)).transpose(1, 2).flatten(0, 2)
            found[f"model.layers.{number}.{other}.weight"] = weight
    return {name: tensor.detach() for name, tensor in found.items()}


def test_chunks_and_checkpoints_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    samples, plain, saving = mixed(tmp_path), tiny_model(), tiny_model()
    wanted, gradients = descend(plain, packs(samples, 1000))
    checkpoint_blocks(saving)
    monkeypatch.setattr(loss, "CHUNK_ROWS", 3)
    found, same = descend(saving, packs(samples, 1000))
    assert abs(found - wanted) < EXACT
    assert gradients.keys() == same.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(same[name], gradient, rtol=1e-5, atol=EXACT, msg=name)


@pytest.mark.parametrize("rows", [3, 512])
def test_a_frozen_head_gives_the_gradient_of_a_trained_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: int
) -> None:
    """The one is computed with the loss, the other by autograd afterwards."""
    samples, model = mixed(tmp_path), tiny_model()
    monkeypatch.setattr(loss, "CHUNK_ROWS", rows)
    wanted, gradients = descend(model, packs(samples, 40))
    model.output.requires_grad_(False)
    found, same = descend(model, packs(samples, 40))
    assert abs(found - wanted) < EXACT
    assert gradients.keys() - same.keys() == {"output.weight"}
    for name, gradient in same.items():
        torch.testing.assert_close(gradient, gradients[name], rtol=1e-5, atol=EXACT, msg=name)


def test_a_frozen_head_computes_each_logit_once(tmp_path: Path) -> None:
    model, seen = tiny_model(), []
    model.output.requires_grad_(False)
    model.output.register_forward_hook(lambda module, inputs, _: seen.append(len(inputs[0])))
    parts = packs(mixed(tmp_path), 1000)
    descend(model, parts)
    assert seen == [parts[0].labelled]


def test_only_labelled_rows_reach_the_head(tmp_path: Path) -> None:
    """Logits of all rows would not fit; the head sees as many rows as there are labels."""
    model, seen = tiny_model(), []
    model.output.register_forward_hook(lambda module, inputs, _: seen.append(len(inputs[0])))
    (pack,) = packs(mixed(tmp_path), 1000)
    images = model.encode_images([each.pixels(VISION, ImageLimits()) for each in pack.images])
    with torch.no_grad():
        marks = mark(model, pack, images)
    assert seen == [pack.labelled] == [marks.labelled]
    assert sum(count for _, count in marks.by_source.values()) == marks.labelled
    assert set(marks.by_source) == {"text/images", "text/text"}


@given(st.integers(1, 40), st.integers(1, 9), st.integers(0, 5))
def test_the_order_is_a_function_of_seed_and_step(count: int, per_step: int, seed: int) -> None:
    order, again = Order(count, per_step, seed), Order(count, per_step, seed)
    steps = order.steps_per_epoch
    for epoch in range(2):
        numbers = [n for step in range(steps) for n in order.step(epoch * steps + step)]
        assert sorted(numbers) == list(range(count)), "every epoch passes each sample once"
    assert again.step(steps) == order.step(steps)
    if count > 8:
        assert Order(count, count, seed + 1).step(0) != Order(count, count, seed).step(0)


@given(st.lists(st.integers(2, 50), min_size=1, max_size=12), st.integers(1, 80))
def test_packs_hold_every_sample_once_within_the_budget(lengths: list[int], budget: int) -> None:
    samples = [sample(length, number) for number, length in enumerate(lengths)]
    made = packs(samples, budget)
    assert sorted(len(each) for pack in made for each in pack.samples) == sorted(map(len, samples))
    assert all(pack.tokens <= budget or len(pack.samples) == 1 for pack in made)
    assert sum(pack.labelled for pack in made) == made[0].step_labelled


@given(st.integers(1, 30), st.integers(2, 9), st.integers(1, 7), st.floats(0.01, 0.9))
def test_replayed_samples_share_every_step(count: int, per_step: int, replayed: int, share: float) -> None:
    order = Order(count, per_step, 0, replayed, share)
    steps = [order.step(number) for number in range(3 * order.steps_per_epoch)]
    own = [number for step in steps for number in step if number < count]
    assert sorted(own) == sorted(3 * list(range(count))), "every epoch passes each sample once"
    again = [number - count for step in steps for number in step if number >= count]
    assert len(again) == order.replays * len(steps)
    assert abs(order.replays - share * per_step) <= 1
    for first in range(0, len(again) - replayed + 1, replayed):
        assert sorted(again[first : first + replayed]) == list(range(replayed)), "each once before any a second time"
