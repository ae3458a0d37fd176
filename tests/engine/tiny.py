"""A tiny random Pixtral, a byte tokenizer and prompts by hand: all that an engine test needs."""

from __future__ import annotations

import codecs
import hashlib
from collections.abc import Sequence
from dataclasses import replace

import torch

from tessera.chat import Completion, Delta
from tessera.engine.config import resolve_config
from tessera.engine.engine import Engine
from tessera.engine.kv_cache import kv_bytes_per_token
from tessera.engine.request import Request
from tessera.images import PreparedImage
from tessera.model.attention import DensePlan
from tessera.model.config import ModelConfig, QueryScaling, VisionConfig, YarnConfig
from tessera.model.pixtral import Pixtral
from tessera.prompt import ImageSpan, Prompt
from tessera.sampling import SamplingParams

IMAGE, BREAK, END, EOS, TOOL_CALLS = 10, 12, 13, 2, 9
FIRST_BYTE = 20
VISION = VisionConfig(
    hidden_size=16,
    image_size=32,
    patch_size=4,
    rope_theta=10_000.0,
    intermediate_size=24,
    num_hidden_layers=2,
    num_attention_heads=2,
)
CONFIG = ModelConfig(
    dim=32,
    n_layers=2,
    head_dim=8,
    hidden_dim=48,
    n_heads=4,
    n_kv_heads=2,
    rope_theta=1e6,
    norm_eps=1e-5,
    vocab_size=290,  # 14 more than the tokenizer has, as padded checkpoints do
    vision_encoder=VISION,
    max_seq_len=512,
)
# As Ministral 3: the rotation and the size of queries depend on where the original context of 16 tokens ends.
SCALED = replace(
    CONFIG,
    yarn=YarnConfig(factor=32.0, original_max_position_embeddings=16, beta=2.0, alpha=0.25),
    llama_4_scaling=QueryScaling(original_max_position_embeddings=16, beta=0.5),
)
CONFIGS = {"plain": CONFIG, "scaled": SCALED}
BLOCK_BYTES = 16 * 2 * 2 * 2 * 8 * 4  # 16 tokens, 2 layers, keys and values, 2 heads of 8, float32


def tiny_model(config: ModelConfig = CONFIG, seed: int = 0) -> Pixtral:
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    model = Pixtral(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" not in name and "ln_pre" not in name:
                # Wide enough that context decides, so that replies differ and do not fall into loops.
                parameter.normal_(std=1.5 / parameter[0].numel() ** 0.5 if parameter.ndim > 1 else 0.1)
        model.output.weight.mul_(2.0)
    return model


class ByteTokenizer:
    """Ids 20 to 275 are bytes; 0 to 19 are special."""

    eos_id, bos_id, vocab_size = EOS, 1, FIRST_BYTE + 256
    opens_with_space = False
    special_ids = frozenset(range(FIRST_BYTE))
    prompt_only_ids = special_ids - {EOS, TOOL_CALLS}

    def token_bytes(self, token_id: int) -> bytes:
        return b"" if token_id < FIRST_BYTE else bytes([token_id - FIRST_BYTE])

    def token_text(self, token_id: int) -> str:
        return f"<{token_id}>"

    def detokenizer(self) -> ByteDetokenizer:
        return ByteDetokenizer()


class ByteDetokenizer:
    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def add(self, token_id: int) -> str:
        return "" if token_id < FIRST_BYTE else self._decoder.decode(bytes([token_id - FIRST_BYTE]))

    def finish(self) -> str:
        return self._decoder.decode(b"", final=True)


def text_ids(text: str) -> list[int]:
    return [FIRST_BYTE + byte for byte in text.encode()]


def random_image(seed: int, rows: int, columns: int) -> PreparedImage:
    """A random image of rows x columns tokens; seed and size decide its content."""
    generator = torch.Generator().manual_seed(seed)
    pixels_CHW = torch.randn(3, rows * 4, columns * 4, generator=generator)
    digest = hashlib.sha256(pixels_CHW.numpy().tobytes() + bytes([rows, columns])).digest()
    return PreparedImage(pixels_CHW=pixels_CHW, grid=(rows, columns), digest=digest, width=columns * 4, height=rows * 4)


def prompt(*parts: str | PreparedImage) -> Prompt:
    """bos, then text and images in reading order."""
    ids, spans = [1], []
    for part in parts:
        if isinstance(part, str):
            ids += text_ids(part)
            continue
        rows, columns = part.grid
        span = ([IMAGE] * columns + [BREAK]) * rows
        spans.append(ImageSpan(start=len(ids), length=len(span), image=part))
        ids += [*span[:-1], END]
    return Prompt(ids=tuple(ids), images=tuple(spans))


def tiny_engine(model: Pixtral, *, num_blocks: int = 64, **options: object) -> Engine:
    block_bytes = 16 * kv_bytes_per_token(
        model.config, torch.int8 if options.get("kv_cache_dtype") == "int8" else torch.float32
    )
    config = resolve_config(
        {"kv_cache_bytes": num_blocks * block_bytes, "max_num_seqs": 8} | options,
        model.config,
        dtype=torch.float32,
        device=model.device,
    )
    return Engine(model, ByteTokenizer(), config)


def run(engine: Engine, *requests: Request) -> list[Completion]:
    """Step until all is done; the replies of `requests`."""
    deltas: dict[str, list[Delta]] = {request.id: [] for request in requests}
    while engine.has_work:
        for request, delta in engine.step():
            deltas.setdefault(request.id, []).append(delta)
    return [Completion.from_deltas(deltas[request.id], "tiny") for request in requests]


def reply(engine: Engine, given: Prompt, **params: object) -> Completion:
    """One request by itself."""
    return run(engine, engine.add(given, SamplingParams(**params)))[0]  # type: ignore[arg-type]


class RoundedDensePlan(DensePlan):
    """Whole sequences whose keys and values are rounded as an int8 cache rounds them; nothing is stored."""

    def attend(
        self, layer: int, queries_TNK: torch.Tensor, keys_TMK: torch.Tensor, values_TMK: torch.Tensor
    ) -> torch.Tensor:
        return super().attend(layer, queries_TNK, _rounded(keys_TMK), _rounded(values_TMK))


def _rounded(rows: torch.Tensor) -> torch.Tensor:
    steps = rows.abs().amax(-1, keepdim=True) / 127
    return (rows / steps).round() * steps


@torch.no_grad()
def dense_logits(
    model: Pixtral, given: Prompt, ids: Sequence[int] = (), plan: type[DensePlan] = DensePlan
) -> torch.Tensor:
    """The oracle: logits (T, V) of the whole sequence at once, without any cache."""
    all_ids = torch.tensor([*given.ids, *ids])
    images = [model.encode_images([span.image.pixels_CHW])[0] for span in given.images]
    return model.logits(model(model.embed(all_ids, images), plan([len(all_ids)])))


def banned_ids(model: Pixtral) -> list[int]:
    """What may never be written."""
    return sorted(ByteTokenizer.prompt_only_ids) + list(range(ByteTokenizer.vocab_size, model.config.vocab_size))


def dense_greedy(model: Pixtral, given: Prompt, count: int, plan: type[DensePlan] = DensePlan) -> list[int]:
    """The oracle's reply: the likeliest allowed id, again and again, each time from the beginning."""
    banned = banned_ids(model)
    ids: list[int] = []
    while len(ids) < count:
        logits_V = dense_logits(model, given, ids, plan)[-1]
        logits_V[banned] = -torch.inf
        ids.append(int(logits_V.argmax()))
        if ids[-1] == EOS:
            break
    return ids


def max_logprob_error(one: Completion, other: Completion) -> float:
    """The largest difference of any reported log-probability; infinite if the tokens differ."""
    if one.token_ids != other.token_ids:
        return float("inf")
    errors = [
        abs(a - b)
        for left, right in zip(one.logprobs, other.logprobs, strict=True)
        for (_, _, a), (_, _, b) in zip(left.top, right.top, strict=True)
    ]
    return max(errors)
