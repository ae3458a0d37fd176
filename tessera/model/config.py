"""The model's configuration: two frozen dataclasses read from the checkpoint's params.json.

They cover the whole family: Pixtral 12B, Pixtral Large and Mistral Small 3.1, whose differences
(patch size, merge, biases, token ids) are values here, never constants in the code. `tessera.weights.hf`
reads config.json, the other layout's form of the same facts.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from tessera.errors import CheckpointError

MAX_CONTEXT_TOKENS = 131_072  # Pixtral's trained context; HF's 1,024,000 is a mistake in its config


@dataclass(frozen=True, kw_only=True)
class VisionConfig:
    """The vision encoder and its connection to the decoder, under params.json's own key names."""

    hidden_size: int
    image_size: int
    patch_size: int
    rope_theta: float
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_channels: int = 3
    image_token_id: int = 10
    image_break_token_id: int = 12
    image_end_token_id: int = 13
    adapter_bias: bool = True
    mm_projector_id: str = ""
    spatial_merge_size: int = 1
    add_pre_mm_projector_layer_norm: bool = False

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_attention_heads

    @property
    def token_size(self) -> int:
        """Pixels along one side of the square that becomes one token."""
        return self.patch_size * self.spatial_merge_size


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """A whole model, under params.json's own key names."""

    dim: int
    n_layers: int
    head_dim: int
    hidden_dim: int
    n_heads: int
    n_kv_heads: int
    rope_theta: float
    norm_eps: float
    vocab_size: int
    vision_encoder: VisionConfig
    max_seq_len: int = MAX_CONTEXT_TOKENS

    @classmethod
    def from_params(cls, params: Mapping[str, Any], source: str = "params.json") -> ModelConfig:
        """Read the content of params.json; raises CheckpointError, naming `source`, for invalid keys or values."""
        known = {
            key: value
            for key, value in params.items()
            if key not in _UNUSED_PARAMS and value is not None and (value or key not in _OFF_PARAMS)
        }
        vision = known.pop("vision_encoder", None)
        if not isinstance(vision, Mapping):
            raise CheckpointError(
                f"{source} has no vision_encoder: this is a text-only model, and Tessera runs "
                "the Pixtral family; use a checkpoint with a vision encoder."
            )
        vision = {key: value for key, value in vision.items() if key not in _UNUSED_VISION_PARAMS and value is not None}
        _check_keys(VisionConfig, vision, f"{source}, vision_encoder")
        _check_keys(ModelConfig, known, source)
        config = cls(**known, vision_encoder=VisionConfig(**vision))
        _check_shapes(config, source)
        return config

    def to_params(self) -> dict[str, Any]:
        """Return the content of params.json; `from_params` makes an equal config of it."""
        return asdict(self)


# Keys of published params.json files that do not change the computation.
_UNUSED_PARAMS = {"model_type", "use_biases", "causal", "norm_type"}
# Settings of later models that do change it: allowed only when they are off.
_OFF_PARAMS = {"rope_scaling", "tied_embeddings", "moe", "yarn", "quantization", "sliding_window", "llama_4_scaling"}
_UNUSED_VISION_PARAMS = {"max_image_size", "image_start_token_id"}
# Far beyond the family; larger values in a damaged or hostile file would take hours, or overflow sizes in bytes.
_LIMITS = {"n_layers": 1000, "num_hidden_layers": 1000, "image_size": 2**14, "spatial_merge_size": 16}
_MAX_INTEGER, _MAX_FLOAT = 2**20, 1e30


def _check_keys(cls: type, given: Mapping[str, Any], where: str) -> None:
    names = {field.name: field for field in fields(cls)}
    for key in given:
        if key not in names:
            near = difflib.get_close_matches(key, names, n=1)
            hint = f"; the nearest known key is {near[0]!r}" if near else ""
            raise CheckpointError(
                f"{where}: unknown key {key!r}{hint}. It may change the computation, so the model "
                "is refused; this version of Tessera supports Pixtral 12B, Pixtral Large and "
                "Mistral Small 3.1."
            )
    required = {"vision_encoder"} if cls is ModelConfig else set()
    for name, field in names.items():
        missing = field.default is field.default_factory and name not in given
        if missing and name not in required:
            raise CheckpointError(f"{where}: the key {name!r} is missing; download the file again.")
        if name in given:
            limit = _LIMITS.get(name, _MAX_FLOAT if field.type == "float" else _MAX_INTEGER)
            _check_value(f"{where}: {name}", given[name], str(field.type), limit)


def _check_value(name: str, value: Any, kind: str, limit: float) -> None:
    accepted = {"int": (int,), "float": (int, float), "bool": (bool,), "str": (str,)}[kind]
    if not isinstance(value, accepted) or (isinstance(value, bool) and kind != "bool"):
        raise CheckpointError(f"{name} is {value!r} and should be of type {kind}; download the file again.")
    if isinstance(value, str | bool):
        return
    if not 0 <= value <= limit or (value == 0 and not name.endswith("token_id")):
        raise CheckpointError(
            f"{name} is {value} and must be more than 0 and at most {limit}; download the file again."
        )


def _check_shapes(config: ModelConfig, source: str) -> None:
    vision = config.vision_encoder
    if config.n_heads % config.n_kv_heads:
        raise CheckpointError(
            f"{source}: n_heads {config.n_heads} is not a multiple of n_kv_heads {config.n_kv_heads}."
        )
    if vision.hidden_size % vision.num_attention_heads or vision.head_dim % 4:
        raise CheckpointError(
            f"{source}: the vision width {vision.hidden_size} does not split into "
            f"{vision.num_attention_heads} heads whose width is a multiple of 4."
        )
    if config.head_dim % 2:
        raise CheckpointError(f"{source}: head_dim {config.head_dim} is odd, and channels are rotated in pairs.")
    if vision.num_channels != 3:
        raise CheckpointError(f"{source}: num_channels is {vision.num_channels}, and images have 3 channels.")
    ids = vision.image_token_id, vision.image_break_token_id, vision.image_end_token_id
    if max(ids) >= config.vocab_size:
        raise CheckpointError(
            f"{source}: the ids of image tokens are {ids}, and the vocabulary has {config.vocab_size} tokens."
        )
    if vision.image_size % vision.token_size:
        raise CheckpointError(
            f"{source}: image_size {vision.image_size} is not a multiple of "
            f"{vision.token_size} pixels, the side of one token."
        )
