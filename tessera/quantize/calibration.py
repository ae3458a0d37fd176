"""Runs examples through the decoder layer by layer, to collect the inputs of each linear.

It holds the examples' hidden states between two layers and nothing of the model. The examples pass each
layer twice: the original, whose linears' inputs are summed in Gram matrices, and the quantized one, so
that the next layer is rounded for the inputs it will get.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from tessera.model.attention import DensePlan
from tessera.model.pixtral import Pixtral
from tessera.model.rope import decoder_rotations
from tessera.prompt import Prompt

# Linears of a decoder layer that share their inputs.
SHARED_INPUTS = (
    ("attention.wq", "attention.wk", "attention.wv"),
    ("attention.wo",),
    ("feed_forward.w1", "feed_forward.w3"),
    ("feed_forward.w2",),
)


class Calibration:
    @torch.inference_mode()
    def __init__(self, prompts: Sequence[Prompt], model: Pixtral, embeddings: Callable[[Tensor], Tensor]) -> None:
        """`model` needs only its vision side and final norm in memory; `embeddings` maps ids to embeddings."""
        self._config = model.config
        self._hidden_TD = []
        for prompt in prompts:
            ids_T = torch.tensor(prompt.ids)
            hidden_TD = embeddings(ids_T).to(model.device, model.dtype)
            if prompt.images:
                encoded = model.encode_images([span.image.pixels_CHW for span in prompt.images])
                hidden_TD[ids_T == self._config.vision_encoder.image_token_id] = torch.cat(encoded)
            self._hidden_TD.append(hidden_TD)

    @torch.inference_mode()
    def grams(self, layer: nn.Module) -> dict[str, Tensor]:
        """Return the Gram matrices (K, K), float32, of the inputs of a layer's linears, by name within the layer."""
        sums: dict[str, Tensor] = {}

        def watched(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
            return lambda _, inputs: _add_gram(sums, name, inputs[0])

        hooks = [layer.get_submodule(names[0]).register_forward_pre_hook(watched(names[0])) for names in SHARED_INPUTS]
        try:
            for hidden_TD in self._hidden_TD:
                self._through(layer, hidden_TD)
        finally:
            for hook in hooks:
                hook.remove()
        return {name: sums[names[0]] for names in SHARED_INPUTS for name in names}

    @torch.inference_mode()
    def final_gram(self, norm: nn.Module) -> Tensor:
        """Return the Gram matrix of the output layer's inputs, the final norm's outputs."""
        sums: dict[str, Tensor] = {}
        for hidden_TD in self._hidden_TD:
            _add_gram(sums, "output", norm(hidden_TD))
        return sums["output"]

    @torch.inference_mode()
    def advance(self, layer: nn.Module) -> None:
        """Run all examples through a decoder layer."""
        self._hidden_TD = [self._through(layer, hidden_TD) for hidden_TD in self._hidden_TD]

    def _through(self, layer: nn.Module, hidden_TD: Tensor) -> Tensor:
        plan = DensePlan([len(hidden_TD)], hidden_TD.device)
        out: Tensor = layer(hidden_TD, plan, decoder_rotations(plan.positions_T, self._config))
        return out


def _add_gram(sums: dict[str, Tensor], name: str, inputs_TK: Tensor) -> None:
    inputs_TK = inputs_TK.float()
    sums[name] = torch.addmm(sums[name], inputs_TK.T, inputs_TK) if name in sums else inputs_TK.T @ inputs_TK
