"""Maps official tensor names to llama.cpp's, in the text file and in the image part.

Rows need no reordering: llama.cpp pairs rotary channels as the official layout does, neighbours
(2i, 2i+1), in the decoder and in the vision encoder, and its converter undoes Hugging Face's order for
both. Source: gguf's TensorNameMap; llama.cpp's conversion/llama.py (`permute`), conversion/llava.py,
conversion/pixtral.py, and the rotary calls of src/llama-model.cpp and tools/mtmd/models/pixtral.cpp.
"""

from __future__ import annotations

import re

OUTER_NAMES = {
    "tok_embeddings.weight": "token_embd.weight",
    "norm.weight": "output_norm.weight",
    "output.weight": "output.weight",
    "vision_encoder.patch_conv.weight": "v.patch_embd.weight",
    "vision_encoder.ln_pre.weight": "v.pre_ln.weight",
    "vision_language_adapter.w_in.weight": "mm.1.weight",
    "vision_language_adapter.w_in.bias": "mm.1.bias",
    "vision_language_adapter.w_out.weight": "mm.2.weight",
    "vision_language_adapter.w_out.bias": "mm.2.bias",
    "pre_mm_projector_norm.weight": "mm.input_norm.weight",
    "patch_merger.merging_layer.weight": "mm.patch_merger.weight",
}
LAYER_NAMES = {
    "attention.wq.weight": "attn_q.weight",
    "attention.wk.weight": "attn_k.weight",
    "attention.wv.weight": "attn_v.weight",
    "feed_forward.w1.weight": "ffn_gate.weight",
    "feed_forward.w2.weight": "ffn_down.weight",
    "feed_forward.w3.weight": "ffn_up.weight",
}
DECODER_NAMES = LAYER_NAMES | {
    "attention.wo.weight": "attn_output.weight",
    "attention_norm.weight": "attn_norm.weight",
    "ffn_norm.weight": "ffn_norm.weight",
}
VISION_NAMES = LAYER_NAMES | {
    "attention.wo.weight": "attn_out.weight",
    "attention_norm.weight": "ln1.weight",
    "ffn_norm.weight": "ln2.weight",
}
# The row of [IMG_BREAK] in the embeddings, which llama.cpp reads from the image part.
IMAGE_BREAK = "v.token_embd.img_break"
DECODER_LAYER = re.compile(r"layers\.(\d+)\.(.+)")
VISION_LAYER = re.compile(r"vision_encoder\.transformer\.layers\.(\d+)\.(.+)")


def to_gguf_name(name: str) -> str:
    """Return llama.cpp's name for an official name; raises KeyError for any other."""
    if match := VISION_LAYER.fullmatch(name):
        return f"v.blk.{match[1]}.{VISION_NAMES[match[2]]}"
    if match := DECODER_LAYER.fullmatch(name):
        return f"blk.{match[1]}.{DECODER_NAMES[match[2]]}"
    return OUTER_NAMES[name]


def is_of_vision_part(name: str) -> bool:
    """Return True if a tensor, by its official name, belongs to the image part's file."""
    return to_gguf_name(name).startswith(("v.", "mm."))
