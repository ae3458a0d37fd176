"""A decoder's step of few tokens in one call of the kernel library (native/decoder_step.h).

It calls the kernels that the modules call, in the same order, with one team of threads that stays awake between them:
the numbers are the modules' own, bit for bit. `DecoderStep` holds the addresses of a model's weights, once; it does
not know the model, nor when a step may take this way (engine/native_step.py).
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from tessera.kernels.cache_layer import CacheLayer
from tessera.kernels.library import ADDRESS, REAL, WHOLE, kernel
from tessera.kernels.packed_linear import PackedFields, has_whole_parts, packed_fields
from tessera.kernels.packed_weight import PackedWeight
from tessera.kernels.paged_attention import AttentionFields, DecodeRows, kernel_for, stored_number
from tessera.kernels.skinny_linear import serves_weight

_PLACE = (ADDRESS, WHOLE)
# In the order of `StepKernels`, with the arguments by which each module asks for it.
_KERNELS: tuple[tuple[str, tuple[Any, ...]], ...] = (
    ("packed_linear", (ADDRESS, WHOLE)),
    ("skinny_linear", (ADDRESS, WHOLE)),
    ("rms_norm_bfloat16", (*_PLACE, ADDRESS, ADDRESS, WHOLE, WHOLE, REAL, WHOLE)),
    ("rotate_bfloat16", (*_PLACE, WHOLE, ADDRESS, ADDRESS, *(WHOLE,) * 4)),
    ("silu_gate_bfloat16", (*_PLACE, *_PLACE, *(WHOLE,) * 3)),
    ("low_rank", (ADDRESS,)),
)
Weight = Tensor | PackedWeight
_Rotation = tuple[Tensor, Tensor]  # cosines and sines (T, K/2)
Adapters = Mapping[int, tuple[Tensor, Tensor, float]]  # A, B and scale beside one linear, by slot


@dataclass(frozen=True)
class LayerWeights:
    """One layer's tensors: bfloat16 norms (D), and weights that `serves` accepts."""

    attention_norm: Tensor
    ffn_norm: Tensor
    wq: Weight
    wk: Weight
    wv: Weight
    wo: Weight
    w1: Weight
    w3: Weight
    w2: Weight


class _Kernels(ctypes.Structure):
    """`StepKernels` of native/decoder_step.h."""

    _fields_ = tuple(
        (name, ADDRESS)
        for name in ("packed_linear", "skinny_linear", "attention", "rms_norm", "rotate", "silu_gate", "low_rank")
    )


class _Linear(ctypes.Structure):
    """`StepLinear` of native/decoder_step.h."""

    _fields_ = (("plain", ADDRESS), ("weight", PackedFields), ("slots", ADDRESS))


class _Slot(ctypes.Structure):
    """`StepSlot` of native/decoder_step.h."""

    _fields_ = (("a", ADDRESS), ("b", ADDRESS), ("rank", WHOLE), ("scale", ctypes.c_double))


class _Stretch(ctypes.Structure):
    """`StepStretch` of native/decoder_step.h."""

    _fields_ = tuple((name, WHOLE) for name in ("slot", "first", "tokens"))


class _Layer(ctypes.Structure):
    """`StepLayer` of native/decoder_step.h."""

    _fields_ = (
        ("attention_norm", ADDRESS),
        ("ffn_norm", ADDRESS),
        *((name, _Linear) for name in ("wq", "wk", "wv", "wo", "w1", "w3", "w2")),
        ("keys", ADDRESS),
        ("values", ADDRESS),
    )


class _Call(ctypes.Structure):
    """`StepCall` of native/decoder_step.h."""

    _fields_ = (
        ("kernels", _Kernels),
        *((name, ADDRESS) for name in ("layers", "final_norm", "hidden", "out")),
        *((name, ADDRESS) for name in ("query_cos", "query_sin", "key_cos", "key_sin", "slots")),
        ("attention", AttentionFields),
        ("head", _Linear),
        ("penalties", ADDRESS),
        ("ids", ADDRESS),
        *((name, WHOLE) for name in ("num_layers", "tokens", "width", "hidden_width", "stored", "threads")),
        ("eps", ctypes.c_double),
        ("stretches", ADDRESS),
        ("num_stretches", WHOLE),
        ("low", ADDRESS),
    )


class DecoderStep:
    """The layers', the final norm's and the head's weights, and the cache whose blocks the steps write and read.

    The tensors stay alive with it, and must keep their places: it holds their addresses. Without a head no token is
    chosen.
    """

    def __init__(
        self, layers: Sequence[LayerWeights], final_norm: Tensor, head: Weight | None, cache: Sequence[CacheLayer],
        *, eps: float, heads: int,
    ) -> None:  # fmt: skip
        self._kept = layers, final_norm, head, cache
        self._slots: list[Any] = []  # of all linears, and the adapters' tensors
        self._most_rank = self._num_slots = 0
        self._cache = cache
        self._heads = heads
        self._head = None if head is None else _linear(head)
        functions = [_address(kernel(name, *arguments)) for name, arguments in _KERNELS]
        functions.insert(2, _address(kernel_for(torch.bfloat16, cache[0])))
        self._function = kernel("decoder_step", ADDRESS)
        self._layers = (_Layer * len(layers))(*(_layer(each, at) for each, at in zip(layers, cache, strict=True)))
        self._call = _Call(
            kernels=_Kernels(*functions),
            layers=ctypes.addressof(self._layers),
            final_norm=final_norm.data_ptr(),
            num_layers=len(layers),
            width=len(final_norm),
            hidden_width=layers[0].w1.shape[0],
            stored=stored_number(cache[0]),
            eps=eps,
        )

    @property
    def chooses(self) -> bool:
        """Return True if `run` can choose tokens."""
        return self._head is not None

    def set_adapters(self, adapters: Sequence[Mapping[str, Adapters]]) -> None:
        """Take the adapters in slots beside each layer's linears, all of which `low_rank.fits_kernel` accepts."""
        count = 1 + max((slot for layer in adapters for each in layer.values() for slot in each), default=-1)
        self._slots, self._most_rank, self._num_slots = [adapters], 0, count
        for layer, linears in zip(self._layers, adapters, strict=True):
            for name, held in linears.items():
                table = (_Slot * count)()
                for slot, (a_RK, b_NR, scale) in held.items():
                    table[slot] = _Slot(a_RK.data_ptr(), b_NR.data_ptr(), len(a_RK), scale)
                    self._most_rank = max(self._most_rank, len(a_RK))
                getattr(layer, name).slots = ctypes.addressof(table)
                self._slots.append(table)

    def run(
        self, hidden_TD: Tensor, rotations: tuple[_Rotation, _Rotation], slots_T: Tensor, rows: DecodeRows,
        penalties_V: Tensor | None = None, *, stretches: Sequence[tuple[int, int, int]] = (),
    ) -> tuple[Tensor, list[int]]:  # fmt: skip
        """Return the normed output (T, D); writes the cache. `rotations` are the queries' and the keys'.

        hidden_TD is bfloat16 with 1 to 16 rows, and `rows` holds all of them. With penalties (bfloat16: 0, or -inf
        for ids never to be chosen) each row's likeliest id is returned too: of the head's outputs in bfloat16, of
        equal ones the lowest; -1 where an output is NaN or +inf, or no id is allowed. `stretches` are the slots of
        rows with adapters, taken before by `set_adapters`, each with its first row and the row after its last.
        """
        if self._function is None:
            raise RuntimeError("has_step was not asked")
        if penalties_V is not None and (self._head is None or len(penalties_V) != self._head.weight.rows):
            raise ValueError(f"{len(penalties_V)} penalties do not fit the head")
        hidden_TD = hidden_TD.clone(memory_format=torch.contiguous_format)  # the call uses its memory
        out_TD = torch.empty_like(hidden_TD)
        turns = [each.contiguous() for each in (*rotations[0], *rotations[1])]
        slots_T = slots_T.contiguous()
        ids = (ctypes.c_int64 * (0 if penalties_V is None else len(hidden_TD)))()
        call = self._call
        call.hidden, call.out, call.slots = hidden_TD.data_ptr(), out_TD.data_ptr(), slots_T.data_ptr()
        call.query_cos, call.query_sin, call.key_cos, call.key_sin = (each.data_ptr() for each in turns)
        call.tokens, call.threads = len(hidden_TD), torch.get_num_threads()
        call.attention = rows.fields(self._cache[0], self._heads)
        call.head = _NO_LINEAR if penalties_V is None else self._head
        call.penalties, call.ids = None if penalties_V is None else penalties_V.data_ptr(), ctypes.addressof(ids)
        stretches = [each for each in stretches if each[0] < self._num_slots]  # others change no linear of the layers
        given = (_Stretch * len(stretches))(*(_Stretch(slot, first, last - first) for slot, first, last in stretches))
        low = hidden_TD.new_empty(len(hidden_TD) * self._most_rank)
        call.stretches, call.num_stretches, call.low = ctypes.addressof(given), len(stretches), low.data_ptr()
        if self._function(ctypes.byref(call)):
            raise MemoryError(f"no memory for a step of {len(hidden_TD)} tokens; use fewer sequences at once")
        return out_TD, list(ids)


def has_step(cache: CacheLayer) -> bool:
    """Return True if the library has all that a step over this bfloat16 cache calls."""
    names = (("decoder_step", (ADDRESS,)), *_KERNELS)
    return all(kernel(name, *arguments) is not None for name, arguments in names) and (
        kernel_for(torch.bfloat16, cache) is not None
    )


def serves(weight: object) -> bool:
    """Return True if products of up to 16 tokens with this weight are the step's own kernels'."""
    if isinstance(weight, PackedWeight):
        return weight.codes.is_cpu and has_whole_parts(weight)
    return isinstance(weight, Tensor) and serves_weight(weight)


def _layer(weights: LayerWeights, cache: CacheLayer) -> _Layer:
    values = [getattr(weights, entry.name) for entry in fields(weights)]
    norms, linears = [norm.data_ptr() for norm in values[:2]], [_linear(weight) for weight in values[2:]]
    return _Layer(*norms, *linears, cache.keys_BSMK.data_ptr(), cache.values_BSMK.data_ptr())


def _linear(weight: Weight) -> _Linear:
    if isinstance(weight, PackedWeight):
        return _Linear(None, packed_fields(weight))
    return _Linear(weight.data_ptr(), PackedFields(rows=weight.shape[0], columns=weight.shape[1]))


_NO_LINEAR = _Linear(None, PackedFields())


def _address(function: Callable[..., int] | None) -> int | None:
    return None if function is None else ctypes.cast(function, ADDRESS).value  # type: ignore[arg-type]
