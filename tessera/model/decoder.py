"""One layer of the text decoder: pre-norm grouped-query attention, then the gated feed-forward.

Source: Mistral Nemo's architecture as released with Pixtral 12B (params.json); arXiv 2310.06825.
"""

from __future__ import annotations

from torch import Tensor, nn

from tessera.model.attention import Attention, AttentionPlan
from tessera.model.block import FeedForward, RMSNorm
from tessera.model.config import ModelConfig
from tessera.model.rope import Rotations


class DecoderBlock(nn.Module):
    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.attention = Attention(config.dim, config.n_heads, config.n_kv_heads, config.head_dim)
        self.feed_forward = FeedForward(config.dim, config.hidden_dim)
        self.attention_norm = RMSNorm(config.dim, config.norm_eps)
        self.ffn_norm = RMSNorm(config.dim, config.norm_eps)

    def forward(self, hidden_TD: Tensor, plan: AttentionPlan, rotations: Rotations) -> Tensor:
        projected = self.attention.project(self.attention_norm(hidden_TD), rotations)
        attended_TNK = plan.attend(self.layer, *projected)
        hidden_TD = hidden_TD + self.attention.wo(attended_TNK.flatten(-2))
        out: Tensor = hidden_TD + self.feed_forward(self.ffn_norm(hidden_TD))
        return out
