"""Unpacked columns are the bits of the dequantized matrix, turned ones are near it, by every path of the library."""

from __future__ import annotations

import pytest
import torch

from tessera.kernels.library import PATHS, choice, forced
from tessera.kernels.packed_weight import GROUP_COLUMNS, dequantize, group_values, pack
from tessera.kernels.quantized_weight import gradient_to_inputs, training_product
from tessera.kernels.unpack_weight import turn_columns, unpack_columns
from tests.kernels.test_packed_weight import KINDS, random_weight

AVAILABLE = [path for path in PATHS[1 : PATHS.index(choice().path) + 1] if path in ("avx2", "avx512")]


@pytest.mark.skipif(not AVAILABLE, reason=f"no kernel library: {choice().reason}")
@pytest.mark.parametrize("path", AVAILABLE)
@pytest.mark.parametrize(("bits", "kind"), [(bits, kind) for bits, kind in KINDS if bits > 3])
def test_unpacked_columns_are_the_dequantized_ones(path: str, bits: int, kind: str) -> None:
    weight = random_weight(bits, 37, 1024, kind)
    wanted = dequantize(weight, torch.bfloat16).T
    before = torch.get_num_threads()
    with forced(path):
        for start, stop, threads in ((0, 1024, 1), (256, 512, 3), (992, 1024, 1)):
            torch.set_num_threads(threads)
            found = unpack_columns(weight, start, stop)
            assert found is not None
            assert torch.equal(found, wanted[start:stop])
    torch.set_num_threads(before)


@pytest.mark.skipif(not AVAILABLE, reason=f"no kernel library: {choice().reason}")
@pytest.mark.parametrize("path", AVAILABLE)
@pytest.mark.parametrize(("bits", "kind"), [(bits, kind) for bits, kind in KINDS if bits > 3])
def test_turned_columns_are_off_by_half_a_step_at_most(path: str, bits: int, kind: str) -> None:
    weight = random_weight(bits, 96, 1024, kind)
    before = torch.get_num_threads()
    for start, stop, threads in ((0, 1024, 3), (256, 512, 1), (992, 1024, 1)):
        wanted = dequantize(weight).T[start:stop]
        steps = wanted.unflatten(1, (-1, GROUP_COLUMNS)).abs().amax(-1) / 127
        torch.set_num_threads(threads)
        with forced(path):
            turned = turn_columns(weight, start, stop)
        assert turned is not None
        assert (turned.bits, turned.shape) == (8, (stop - start, 96))
        scales, _ = group_values(turned)
        # float16, rounded up; below 6e-5 its steps are 6e-8.
        assert ((scales >= steps) & (scales <= steps * (1 + 2**-10) + 2**-24)).all()
        off = (dequantize(turned) - wanted).unflatten(1, (-1, GROUP_COLUMNS)).abs()
        assert (off <= scales[..., None] * 0.5001).all()
    torch.set_num_threads(before)


@pytest.mark.skipif(not AVAILABLE, reason=f"no kernel library: {choice().reason}")
def test_a_column_of_zeros_is_turned_to_zeros() -> None:
    codes = torch.full((32, 64), 8, dtype=torch.uint8)
    turned = turn_columns(pack(codes, torch.ones(32, 2).half(), bits=4), 0, 64)
    assert turned is not None
    assert torch.equal(dequantize(turned), torch.zeros(64, 32))


@pytest.mark.skipif("avx512" not in AVAILABLE, reason=f"no integer kernels to compare: {choice().reason}")
@pytest.mark.parametrize("spread", [0.0, 2.0], ids=["even", "outliers"])
def test_the_rounded_gradient_is_about_as_far_off_as_the_product(spread: float) -> None:
    """In 8 bits the gradient errs by at most five times bfloat16's error, and twice that of the product it belongs to.

    Errors are of the whole matrix, beside float64. Outliers: some outputs' gradients are e^(2 x normal) larger.
    """
    dice = torch.Generator().manual_seed(3)
    weight = random_weight(4, 512, 1024, "centred")
    exact = dequantize(weight).double()
    gradient = torch.randn(64, 512, generator=dice) * (spread * torch.randn(512, generator=dice)).exp()
    inputs = torch.randn(64, 1024, generator=dice)
    gradient, inputs = gradient.bfloat16(), inputs.bfloat16()

    def error(found: torch.Tensor, wanted: torch.Tensor) -> float:
        return float((found - wanted).norm() / wanted.norm())

    wanted = gradient.double() @ exact
    with forced("avx512"):
        rounded = error(gradient_to_inputs(gradient, weight), wanted)
        product = error(training_product(inputs, weight), inputs.double() @ exact.T)
    with forced("torch"):
        plain = error(gradient_to_inputs(gradient, weight), wanted)
    assert plain < rounded < 5 * plain
    assert rounded < 2 * product


def test_what_the_kernel_cannot_read_is_left_to_torch() -> None:
    weight = random_weight(4, 37, 1024, "centred")
    with forced("torch"):
        assert unpack_columns(weight, 0, 32) is None
        assert turn_columns(random_weight(4, 96, 1024, "centred"), 0, 32) is None
    assert turn_columns(weight, 0, 32) is None, "37 rows are no whole groups"
    assert unpack_columns(weight.columns(256, 512), 0, 32) is None, "a view that skips groups"
    assert unpack_columns(random_weight(3, 37, 1024, "centred"), 0, 32) is None, "levels instead of codes"
    if AVAILABLE:
        with pytest.raises(ValueError, match="columns 1024 to 1056 are not in a weight of 1024 columns"):
            unpack_columns(weight, 1024, 1056)
