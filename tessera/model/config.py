"""The model's configuration: frozen dataclasses read from the checkpoint's params.json.

They cover the whole family: Pixtral 12B, Pixtral Large, Mistral Small 3.1 and Ministral 3, whose differences
(patch size, merge, biases, token ids, rotary scaling) are values here, never constants in the code.
`tessera.weights.hf` reads config.json, the other layout's form of the same facts.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, TypeVar

from tessera.errors import CheckpointError

MAX_CONTEXT_TOKENS = 131_072  # Pixtral's trained context; HF's 1,024,000 is a mistake in its config
SUPPORTED = "Pixtral 12B, Pixtral Large, Mistral Small 3.1 and 3.2, and Ministral 3"


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
class YarnConfig:
    """How a longer context changes the decoder's rotation, under params.json's own key names.

    Source: YaRN, arXiv 2309.00071, sections 3.2 and 3.4, whose beta and alpha these are. Channel pairs that turn at
    least `beta` times within the original context keep their frequency, those that turn at most `alpha` times are
    slowed down by `factor`. `apply_scale` is the paper's attention temperature.
    """

    factor: float
    original_max_position_embeddings: int
    beta: float = 32.0
    alpha: float = 1.0
    apply_scale: bool = False  # transformers' conversion of models with images never applies it

    @property
    def max_seq_len(self) -> int:
        return round(self.factor * self.original_max_position_embeddings)


@dataclass(frozen=True, kw_only=True)
class QueryScaling:
    """Queries grow with their position: by 1 + beta * ln(1 + floor(position / original_max_position_embeddings)).

    Source: "llama_4_scaling" of Ministral 3's params.json, after Llama 4's attention temperature.
    """

    original_max_position_embeddings: int
    beta: float


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
    # Not in the representation, of which fingerprints of models without them are made.
    tied_embeddings: bool = field(default=False, repr=False)  # the head is the embeddings' matrix
    yarn: YarnConfig | None = field(default=None, repr=False)
    llama_4_scaling: QueryScaling | None = field(default=None, repr=False)

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
        yarn = _section(YarnConfig, known, "yarn", source)
        scaling = _section(QueryScaling, known, "llama_4_scaling", source)
        encoder = read_vision(vision, f"{source}, vision_encoder")
        _check_keys(ModelConfig, known, source)
        known.setdefault("max_seq_len", _trained_tokens(yarn))
        config = cls(**known, vision_encoder=encoder, yarn=yarn, llama_4_scaling=scaling)
        _check_shapes(config, source)
        return config

    def to_params(self) -> dict[str, Any]:
        """Return the content of params.json; `from_params` makes an equal config of it."""
        return asdict(self)


def read_vision(vision: Mapping[str, Any], source: str) -> VisionConfig:
    """Read the section vision_encoder; raises CheckpointError, naming `source`, for invalid keys or values."""
    _check_keys(VisionConfig, vision, source)
    return VisionConfig(**vision)


def trained_context(config: ModelConfig) -> ModelConfig:
    """Return the config with the context that it was trained for, if its file has a larger number.

    1,024,000 in Hugging Face's file of Pixtral 12B is a mistake: it was trained for 131,072.
    """
    limit = _trained_tokens(config.yarn)
    return replace(config, max_seq_len=min(config.max_seq_len, limit))


def _trained_tokens(yarn: YarnConfig | None) -> int:
    return MAX_CONTEXT_TOKENS if yarn is None else yarn.max_seq_len


# Keys of published params.json files that do not change the computation.
_UNUSED_PARAMS = {"model_type", "use_biases", "causal", "norm_type"}
# Settings that do change it: read, or allowed only when they are off.
_OFF_PARAMS = {"rope_scaling", "moe", "yarn", "quantization", "sliding_window", "llama_4_scaling"}
_UNUSED_VISION_PARAMS = {"max_image_size", "image_start_token_id"}
# Far beyond the family; larger values in a damaged or hostile file would take hours, or overflow sizes in bytes.
_LIMITS = {"n_layers": 1000, "num_hidden_layers": 1000, "image_size": 2**14, "spatial_merge_size": 16}
_MAX_INTEGER, _MAX_FLOAT = 2**20, 1e30


def _check_keys(cls: type, given: Mapping[str, Any], where: str) -> None:
    names = {one.name: one for one in fields(cls)}
    for key in given:
        if key not in names:
            near = difflib.get_close_matches(key, names, n=1)
            hint = f"; the nearest known key is {near[0]!r}" if near else ""
            raise CheckpointError(
                f"{where}: unknown key {key!r}{hint}. It may change the computation, so the model "
                f"is refused; this version of Tessera supports {SUPPORTED}."
            )
    required = {"vision_encoder"} if cls is ModelConfig else set()  # checked before
    for name, one in names.items():
        missing = one.default is one.default_factory and name not in given
        if missing and name not in required:
            raise CheckpointError(f"{where}: the key {name!r} is missing; download the file again.")
        if name in given:
            limit = _LIMITS.get(name, _MAX_FLOAT if one.type == "float" else _MAX_INTEGER)
            _check_value(f"{where}: {name}", given[name], str(one.type), limit)


_Section = TypeVar("_Section", YarnConfig, QueryScaling)


def _section(cls: type[_Section], params: dict[str, Any], key: str, source: str) -> _Section | None:
    """Take a section out of `params` and return it checked; None if it is off."""
    given = params.pop(key, None)
    if given is None:
        return None
    if not isinstance(given, Mapping):
        raise CheckpointError(f"{source}: {key} is {given!r} and should be an object; download the file again.")
    given = {name: value for name, value in given.items() if value is not None}
    _check_keys(cls, given, f"{source}, {key}")
    return cls(**given)


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
    if config.yarn is not None and not (config.yarn.factor >= 1 and config.yarn.beta > config.yarn.alpha):
        raise CheckpointError(
            f"{source}: yarn has factor {config.yarn.factor}, beta {config.yarn.beta} and alpha {config.yarn.alpha}; "
            "the factor must be at least 1 and beta more than alpha: download the file again."
        )
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
