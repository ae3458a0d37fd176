"""`python -m tessera.bench`: this machine's limits, then Tessera beside transformers."""

from __future__ import annotations

import platform
import sys

import torch

from tessera.bench.limits import measure_limits
from tessera.bench.peer import VISION_LAYERS, WIDTHS, compare_all, random_model, table


def main() -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    limits = measure_limits(device)
    print(
        f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}, {device}: "
        f"reads {limits.read_bytes_per_s / 1e9:.1f} GB/s, bfloat16 {limits.bfloat16_flops / 1e12:.2f} TFLOP/s"
    )
    print("measuring, a few minutes", file=sys.stderr)
    results = compare_all(random_model(WIDTHS, device))
    print(table(results))
    encode, _, decode, _ = results
    flops = _encode_flops() / encode.ours_s
    step_bytes = sum(p.nbytes for p in random_layer_parameters())
    print(
        f"image encode at {flops / limits.bfloat16_flops:.0%} of the arithmetic limit, "
        f"decode at {step_bytes / decode.ours_s / limits.read_bytes_per_s:.0%} of the bandwidth limit"
    )


def _encode_flops() -> float:
    """Operations of 4096 patches through the vision layers, its adapter and the convolution left out."""
    vision, patches = WIDTHS.vision_encoder, 4096
    width, hidden = vision.hidden_size, vision.intermediate_size
    linears = 2 * patches * (4 * width * width + 3 * width * hidden)
    return float(VISION_LAYERS * (linears + 4 * patches * patches * width))


def random_layer_parameters() -> list[torch.Tensor]:
    """The tensors that one decode step reads whole, on the meta device, in bfloat16."""
    from tessera.weights.stream import empty_model

    model = empty_model(WIDTHS).to(torch.bfloat16)
    return [*model.layers.parameters(), *model.output.parameters()]


if __name__ == "__main__":
    main()
