"""One section of a GGUF file's metadata, whose keys are read one by one; what is unknown is refused by name.

Keys that are off in every model here, and those without information, are listed with their values.
"""

from __future__ import annotations

import reprlib
from typing import Any, NoReturn

import numpy as np

from tessera.errors import CheckpointError
from tessera.weights.gguf.header import Header, Value

# Keys with no or wrong information on the computation: early uploads say gelu, but the weights need SiLU.
UNUSED_KEYS = {"tensor_data_layout", "vision.projection_dim", "use_silu", "use_gelu"}
# Keys of settings that no model here has, with the values that turn them off or change nothing in llama.cpp.
OFF_KEYS: dict[str, tuple[Value, ...]] = {
    "expert_used_count": (0,),
    "expert_shared_count": (0,),
    "attention.causal": (True,),
    "attention.sliding_window": (0,),
    "attention.scale": (0.0,),
    "attention.clamp_kqv": (0.0,),
    "attention.max_alibi_bias": (0.0,),
    "attention.temperature_scale": (0.0,),
    "rope.scaling.factor": (0.0, 1.0),
    "rope.scaling.attn_factor": (1.0,),
    "rope.scaling.finetuned": (False,),
    "rope.scale_linear": (1.0,),
    "logit_scale": (0.0, 1.0),
    "embedding_scale": (0.0, 1.0),
    "residual_scale": (0.0, 1.0),
    "pooling_type": (0,),
    "has_text_encoder": (False,),
    "has_llava_projector": (False, True),  # ignored by readers of the projector's type
}
MAX_INTEGER, MAX_FLOAT = 2**31 - 1, float(np.finfo(np.float32).max)


class Keys:
    """One section of a file's metadata; keys that were not read are refused at the end."""

    def __init__(self, header: Header, section: str) -> None:
        self._file, self._section = header.file, section
        given = {key: value for key, value in header.values.items() if key.startswith(section)}
        self._values = {key: value for key, value in given.items() if not _is_off(key.removeprefix(section), value)}
        self._asked = {section + key for key in UNUSED_KEYS}

    def _value(self, key: str, default: Value | None = None) -> Value:
        full = self._section + key
        self._asked.add(full)
        value = self._values.get(full, default)
        if value is None:
            raise CheckpointError(f"{self._file}: the key {full!r} is missing; download the file again.")
        return value

    def integer(self, key: str, default: int | None = None, limit: int = MAX_INTEGER) -> int:
        value = self._value(key, default)
        if type(value) is not int or not 0 < value <= limit:
            self._refuse(key, value, f"it must be a whole number from 1 to {limit:,}")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        value = self._value(key, default)
        if type(value) is not float or not 0 < value <= MAX_FLOAT:
            self._refuse(key, value, "it must be a positive number")
        return float(str(np.float32(value)))  # 1e-05, not its float32 value

    def has(self, key: str) -> bool:
        return self._section + key in self._values

    def says(self, key: str, value: Value) -> bool:
        """Return True if the key is present with this value."""
        found = self._values.get(self._section + key)
        is_so = type(found) is type(value) and found == value
        if is_so:
            self._asked.add(self._section + key)
        return is_so

    def need(self, key: str, expected: Value) -> None:
        """Refuse a missing key, and any other value than this."""
        self._value(key)
        self.check(key, expected)

    def check(self, key: str, expected: Value) -> None:
        """Refuse any other value than this, if the key is present."""
        value = self._value(key, expected)
        if type(value) is not type(expected) or not (value == expected or _is_close(value, expected)):
            self._refuse(key, value, f"this model needs {expected!r}")

    def check_colours(self, key: str, expected: tuple[float, ...]) -> None:
        value = self._value(key)
        if not _is_close(value, expected):
            self._refuse(key, value, f"Pixtral's is {expected}")

    def refuse_others(self) -> None:
        """Refuse keys that were not read: they may change the computation."""
        others = self._values.keys() - self._asked
        if others:
            raise CheckpointError(
                f"{self._file} has the key {min(others)!r}, which is not known here and may change the computation, so "
                "the model is refused; use a file of the Pixtral family."
            )

    def _refuse(self, key: str, value: Value, wanted: str) -> NoReturn:
        raise CheckpointError(
            f"{self._file}: {self._section + key} is {reprlib.repr(value)}, and {wanted}; use a file of the Pixtral "
            "family."
        )


def _is_off(key: str, value: Value) -> bool:
    return any(type(value) is type(off) and value == off for off in OFF_KEYS.get(key, ()))


def _is_close(value: Any, expected: Any) -> bool:
    """Return True if numbers, or rows of them, are equal up to float32 and a writer's rounding."""
    if not isinstance(value, float | np.ndarray):
        return False
    given, wanted = np.asarray(value), np.asarray(expected)
    return given.shape == wanted.shape and given.dtype.kind == "f" and np.allclose(given, wanted, rtol=1e-5, atol=0)
