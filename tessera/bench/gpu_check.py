"""`python -m tessera.bench.gpu_check`: correctness on a CUDA device, then a table of speed.

Correctness is the distance, in norm, of what the GPU computes to the same model on the CPU in
float32; then the marked tests; then the table of `tessera.bench.peer` on that device.
"""

from __future__ import annotations

import dataclasses
import subprocess
import sys

import torch

from tessera.bench.limits import measure_limits
from tessera.bench.peer import WIDTHS, compare_all, random_model, table
from tessera.model.attention import DensePlan
from tessera.model.pixtral import Pixtral

BOUNDS = {torch.float32: 1e-3, torch.bfloat16: 2e-2}  # float32 allows for TF32-free but reordered sums


def logits_of(model: Pixtral) -> torch.Tensor:
    """Logits of a prompt with two pictures, on the CPU in float32."""
    vision = model.config.vision_encoder
    generator = torch.Generator().manual_seed(1)
    pixels = [torch.randn(3, 64, 96, generator=generator), torch.randn(3, 32, 32, generator=generator)]
    ids = [1, 3]
    for rows, columns in ((4, 6), (2, 2)):
        picture = ([vision.image_token_id] * columns + [vision.image_break_token_id]) * rows
        ids += [*picture[:-1], vision.image_end_token_id]
    ids_T = torch.tensor([*ids, 1500, 1600, 4], device=model.device)
    with torch.inference_mode():
        hidden_TD = model.embed(ids_T, model.encode_images(pixels))
        return model.logits(model(hidden_TD, DensePlan([len(ids_T)], model.device))).cpu()


def main() -> int:
    """Run all three; the exit code is 1 when a distance is out of bounds or a test fails."""
    if not torch.cuda.is_available():
        print("no CUDA device is visible to torch; nothing was checked", file=sys.stderr)
        return 1
    config = dataclasses.replace(WIDTHS, vocab_size=8192)
    reference = random_model(config).float()
    expected = logits_of(reference)
    failed = False
    for dtype, bound in BOUNDS.items():
        distance = float((logits_of(reference.to("cuda", dtype)) - expected).norm() / expected.norm())
        failed |= not distance <= bound
        print(f"{dtype}: relative distance of logits {distance:.2e}, bound {bound:.0e}")
        reference = random_model(config).float()
    failed |= subprocess.run([sys.executable, "-m", "pytest", "-q", "-m", "gpu"], check=False).returncode not in (0, 5)
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}: {measure_limits('cuda')}")
    print(table(compare_all(random_model(WIDTHS, "cuda"))))
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
