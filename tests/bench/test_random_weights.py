"""Random models: that every format holds the same numbers, and that whoever reads them says what is foretold."""

from __future__ import annotations

from pathlib import Path

import gguf
import pytest
import torch

from tessera.bench.random_gguf import file_names
from tessera.bench.random_values import CYCLE, next_ids
from tessera.bench.random_weights import widths, with_layers, write_random
from tessera.bench.run_python import Tessera, Transformers
from tessera.errors import UsageError
from tessera.kernels.packed_weight import dequantize
from tessera.linears.quantized import QuantizedLinear
from tessera.load import LoadedModel
from tessera.model.attention import DensePlan
from tessera.model.family import PIXTRAL_12B
from tessera.weights.gguf.names import IMAGE_BREAK, to_gguf_name
from tests.loading import load_model

NANO, TOKENIZER = widths("nano")
SMALL = with_layers(NANO, 2, 2)
VOCAB = NANO.vocab_size


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("random")
    for form, bits in (("mistral", 16), ("tessera", 8), ("tessera", 4), ("tessera", 3)):
        write_random(folder / f"{form}-{bits}", SMALL, TOKENIZER, form, bits)  # type: ignore[arg-type]
    return folder


@pytest.fixture(scope="module")
def plain(folders: Path) -> LoadedModel:
    return load_model(folders / "mistral-16", dtype="float32", device="cpu")


def test_eight_bits_are_the_same_numbers(folders: Path, plain: LoadedModel) -> None:
    packed = load_model(folders / "tessera-8", dtype="float32", device="cpu")
    modules = dict(plain.model.named_modules())
    linears = {name: each for name, each in packed.model.named_modules() if isinstance(each, QuantizedLinear)}
    assert len(linears) == 7 * SMALL.n_layers + 1
    for name, linear in linears.items():
        assert torch.equal(dequantize(linear.quantized), modules[name].weight)
    others = dict(plain.model.named_parameters())
    assert all(torch.equal(value, others[name]) for name, value in packed.model.named_parameters())


@pytest.mark.parametrize("name", ["mistral-16", "tessera-8", "tessera-4", "tessera-3"])
@pytest.mark.parametrize("lookup", [False, True])
def test_the_reply_is_foretold(folders: Path, name: str, lookup: bool) -> None:
    prompts = [[1, 1100, 1030], [1, 5, VOCAB - 4]]
    reply = Tessera(load_model(folders / name, device="cpu")).generate(prompts, 8, lookup)
    assert reply["replies"] == [next_ids(1030, 8, VOCAB), next_ids(VOCAB - 4, 8, VOCAB)]


def test_transformers_says_the_same(plain: LoadedModel) -> None:
    """An independent program, so that what is foretold is a fact about the weights and not about our engine."""
    reply = Transformers(plain).generate([[1, 1100, 1030], [1, 5, VOCAB - 4]], 8, lookup=False)
    assert reply["replies"] == [next_ids(1030, 8, VOCAB), next_ids(VOCAB - 4, 8, VOCAB)]


def test_ids_come_round() -> None:
    assert next_ids(2 * CYCLE - 2, 3, 131_072) == [2 * CYCLE - 1, CYCLE, CYCLE + 1]
    assert next_ids(VOCAB - 2, 3, VOCAB) == [VOCAB - 1, CYCLE, CYCLE + 1]


def test_hidden_states_keep_their_size_through_forty_layers(tmp_path: Path) -> None:
    write_random(tmp_path / "deep", with_layers(NANO, 40, 24), TOKENIZER, "mistral", 16)
    model = load_model(tmp_path / "deep", device="cpu").model
    sizes: list[float] = []
    for layer in model.layers:
        layer.register_forward_hook(lambda *arguments: sizes.append(float(arguments[2].pow(2).mean().sqrt())))
    with torch.inference_mode():
        ids_T = torch.tensor([1, *next_ids(1030, 20, VOCAB)])
        (image,) = model.encode_images([torch.randn(3, 72, 72)])
        model(model.embed(ids_T, []), DensePlan([len(ids_T)], model.device))
    assert 0.5 < sizes[0] < sizes[-1] < 4
    assert 0.1 < float(image.pow(2).mean().sqrt()) < 10


def test_widths() -> None:
    assert widths("12b")[0] is PIXTRAL_12B
    with pytest.raises(UsageError, match="'13b' are unknown; choose 12b or nano"):
        widths("13b")
    with pytest.raises(UsageError, match="the format mistral cannot hold 4 bits; choose 16"):
        write_random(Path("nowhere"), SMALL, TOKENIZER, "mistral", 4)


@pytest.mark.parametrize(("bits", "kind"), [(4, "Q4_0"), (8, "Q8_0"), (16, "BF16")])
def test_gguf_files_hold_the_same_numbers(tmp_path: Path, plain: LoadedModel, bits: int, kind: str) -> None:
    """As the gguf package reads them; and in 4 bits, as our own folder has them."""
    write_random(tmp_path / "gguf", SMALL, TOKENIZER, "gguf", bits)
    text, vision = (tmp_path / "gguf" / name for name in file_names(bits))
    tensors = {tensor.name: tensor for file in (text, vision) for tensor in gguf.GGUFReader(file).tensors}
    values = {name: gguf.dequantize(tensor.data, tensor.tensor_type) for name, tensor in tensors.items()}
    assert tensors["blk.1.ffn_down.weight"].tensor_type.name == kind
    parameters = dict(plain.model.named_parameters())
    for name, parameter in parameters.items():
        if bits > 4 or not name.startswith("layers."):
            assert torch.equal(torch.from_numpy(values[to_gguf_name(name)].copy()).view(parameter.shape), parameter)
    row = parameters["tok_embeddings.weight"][SMALL.vision_encoder.image_break_token_id]
    assert torch.equal(torch.from_numpy(values[IMAGE_BREAK].copy()), row)
    loaded = load_model(text, mmproj=vision, dtype="float32", device="cpu")
    assert Tessera(loaded).generate([[1, 1030]], 8, lookup=False)["replies"] == [next_ids(1030, 8, VOCAB)]
