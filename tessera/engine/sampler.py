"""Chooses one token for each row of logits, according to each request's parameters.

Every row is handled alone and drawn with its request's own random numbers, so equal logits give the
same choice whatever else runs; the logits themselves may vary with the batch (docs/speed.md).
One uniform number is used per token: the first token (in order of ids) whose cumulative probability
exceeds it is chosen. The order of the steps is that of HF transformers, not vLLM's: repetition penalty,
OpenAI's two penalties, logit bias, temperature, top-k, top-p, and min-p after these two.
Tokens that only a prompt may contain (image and control tokens) are never chosen, nor tokens that the
request's grammar forbids. On a GPU everything is queued, and only the chosen ids are waited for.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tessera.engine.grammar import unpack
from tessera.engine.request import Request
from tessera.machine import upload
from tessera.sampling import SamplingParams

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Choice:
    """A chosen token; log-probabilities are of the model's own distribution, before any adjustment."""

    token_id: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()


class Sampler:
    """Chooses tokens, but never `banned_ids` or ids that the tokenizer does not have."""

    def __init__(self, vocab_size: int, banned_ids: Iterable[int], eos_id: int, device: torch.device) -> None:
        self.eos_id = eos_id
        self._banned_V = torch.zeros(vocab_size, dtype=torch.bool, device=device)
        self._banned_V[torch.tensor(sorted(banned_ids), dtype=torch.int64, device=device)] = True
        self._penalties_V = torch.zeros(vocab_size, dtype=torch.bfloat16, device=device)
        self._penalties_V.masked_fill_(self._banned_V, -torch.inf)

    def penalties_for(self, requests: Sequence[Request]) -> Tensor | None:
        """Return what to add to logits (V), bfloat16, if `sample` would choose the likeliest of each row and no more.

        None if any request draws, adjusts its logits, has a grammar, or wants log-probabilities.
        """
        return self._penalties_V if all(_takes_likeliest(request) for request in requests) else None

    @torch.inference_mode()
    def sample(self, logits_RV: Tensor, requests: Sequence[Request]) -> list[Choice | None]:
        """Return one choice per row; None if the row has NaN, or no id is allowed."""
        raw_RV = logits_RV
        device = logits_RV.device
        masks = _masks(requests, logits_RV.shape[1])  # on the CPU, while a GPU may still compute the logits
        logits_RV = logits_RV.masked_fill(self._banned_V, -torch.inf)
        for row, words_W in masks.items():
            allowed_V = unpack(upload(words_W, torch.int32, device), logits_RV.shape[1])
            logits_RV[row].masked_fill_(~allowed_V, -torch.inf)
        for row, request in enumerate(requests):
            try:
                self._adjust(logits_RV[row], request)
            except Exception:  # any failure ends this request only
                logger.exception("the parameters of request %s could not be applied", request.id)
                logits_RV[row] = -torch.inf
        # The maximum of a row with NaN is NaN; of a row without any allowed id, -inf.
        sound_R = raw_RV.amax(-1).isfinite() & logits_RV.amax(-1).isfinite()
        logits_RV.masked_fill_(~sound_R[:, None], 0)  # so that no id beyond the vocabulary is drawn
        chosen_R = logits_RV.argmax(-1)
        drawn = [row for row, request in enumerate(requests) if request.params.temperature > 0]
        if drawn:
            rows = upload(drawn, torch.int64, device)
            chosen_R.index_copy_(0, rows, _draw(logits_RV[rows], [requests[row] for row in drawn]))
        described = with_logprobs(raw_RV, chosen_R, [request.params.logprobs for request in requests])
        return [choice if sound else None for choice, sound in zip(described, sound_R.tolist(), strict=True)]

    def _adjust(self, logits_V: Tensor, request: Request) -> None:
        """Apply one request's penalties, biases and early-end bans in place."""
        params = request.params
        device = logits_V.device
        if params.repetition_penalty != 1.0:
            seen = upload(list(dict.fromkeys(request.ids)), torch.int64, device)
            logits = logits_V[seen]
            penalty = params.repetition_penalty
            logits_V[seen] = torch.where(logits < 0, logits * penalty, logits / penalty)
        if (params.frequency_penalty or params.presence_penalty) and request.num_output:
            counts = Counter(request.output_ids)
            repeats = upload(list(counts.values()), logits_V.dtype, device)
            seen = upload(list(counts), torch.int64, device)
            logits_V[seen] -= params.frequency_penalty * repeats + params.presence_penalty
        if params.logit_bias:
            biases = dict(params.logit_bias)
            seen = upload(list(biases), torch.int64, device)
            logits_V[seen] += upload(list(biases.values()), logits_V.dtype, device)
        if request.num_output < params.min_tokens:
            ends = upload([self.eos_id, *params.stop_token_ids], torch.int64, device)
            logits_V.index_fill_(0, ends, -torch.inf)


def _takes_likeliest(request: Request) -> bool:
    params = request.params
    penalized = params.repetition_penalty != 1.0 or params.frequency_penalty != 0 or params.presence_penalty != 0
    adjusted = penalized or bool(params.logit_bias) or request.num_output < params.min_tokens
    return not (params.temperature > 0 or adjusted or request.matcher is not None or params.logprobs is not None)


def _masks(requests: Sequence[Request], vocab_size: int) -> dict[int, Tensor]:
    """Return the allowed ids of each row that has a grammar; a grammar that fails allows none."""
    masks = {}
    for row, request in enumerate(requests):
        if request.matcher is None:
            continue
        words_W = torch.zeros(-(-vocab_size // 32), dtype=torch.int32)
        try:
            request.matcher.fill(words_W)
        except Exception as error:  # any failure ends this request only
            trace = None if request.matcher.has_failed else error  # a fault of the grammar's author needs no trace
            logger.error("the grammar of request %s failed", request.id, exc_info=trace)
            words_W.zero_()
        masks[row] = words_W
    return masks


def _draw(logits_RV: Tensor, requests: Sequence[Request]) -> Tensor:
    """Draw one id for each row, with exactly one number from each request's generator."""
    params = [request.params for request in requests]
    device = logits_RV.device
    temperatures_R = upload([entry.temperature for entry in params], logits_RV.dtype, device)
    # The largest logit is set to zero first, so that a tiny temperature cannot overflow.
    logits_RV = (logits_RV - logits_RV.amax(-1, keepdim=True)) / temperatures_R[:, None]
    limited = [row for row, entry in enumerate(params) if entry.top_k or entry.top_p < 1]
    if limited:
        rows = upload(limited, torch.int64, device)
        logits_RV[rows] = _limit(logits_RV[rows], [params[row] for row in limited])
    min_p_R = upload([entry.min_p for entry in params], logits_RV.dtype, device)
    probabilities_RV = logits_RV.softmax(-1)
    floor_R = min_p_R * probabilities_RV.amax(-1)
    probabilities_RV = probabilities_RV.masked_fill(probabilities_RV < floor_R[:, None], 0)
    # float64: over 131,072 ids a float32 sum would make late ids of small probability unreachable.
    cumulated_RV = probabilities_RV.double().cumsum(-1)
    uniform = torch.cat([torch.rand(1, generator=request.generator, dtype=torch.float64) for request in requests])
    targets_R = upload(uniform, torch.float64, device) * cumulated_RV[:, -1]
    return torch.searchsorted(cumulated_RV, targets_R[:, None], right=True)[:, 0]


def _limit(logits_RV: Tensor, params: Sequence[SamplingParams]) -> Tensor:
    """Keep each row's top_k likeliest ids, and of these the fewest that hold top_p of their probability.

    Ids as likely as the least likely one kept are kept too, so the order of ties does not matter.
    """
    kept_RV = torch.empty_like(logits_RV)
    # Rows of one top_k together: the width of the sorted part must not depend on other requests.
    for top_k in {entry.top_k for entry in params}:
        chosen = [row for row, entry in enumerate(params) if entry.top_k == top_k]
        rows = upload(chosen, torch.int64, logits_RV.device)
        top_p_R = upload([params[row].top_p for row in chosen], logits_RV.dtype, logits_RV.device)
        width = min(top_k, logits_RV.shape[1]) or logits_RV.shape[1]
        sorted_RK = logits_RV[rows].topk(width).values
        probabilities_RK = sorted_RK.softmax(-1)
        before_RK = probabilities_RK.cumsum(-1) - probabilities_RK
        # With top_p 1 all stay: rounding must not cost a row its tail. The likeliest always stays.
        dropped_RK = (before_RK >= top_p_R[:, None]) & (top_p_R < 1)[:, None]
        dropped_RK[:, 0] = False
        least_R = sorted_RK.masked_fill(dropped_RK, torch.inf).amin(-1)
        kept_RV[rows] = logits_RV[rows].masked_fill(logits_RV[rows] < least_R[:, None], -torch.inf)
    return kept_RV


def with_logprobs(raw_RV: Tensor, chosen_R: Tensor, wanted: Sequence[int | None]) -> list[Choice]:
    """Return each row's chosen id, with log-probabilities if wanted: None, or the number of alternatives.

    Everything is computed before the first number is read: reading waits for the device.
    """
    parts = []
    # Rows of one count together: ties are ordered by the count, which must not depend on other requests.
    for count in {each for each in wanted if each is not None}:
        numbers = [row for row, each in enumerate(wanted) if each == count]
        rows = upload(numbers, torch.int64, raw_RV.device)
        logprobs_RV = raw_RV[rows].log_softmax(-1)
        own_R = logprobs_RV.gather(1, chosen_R[rows, None])[:, 0]
        parts.append((numbers, own_R, *logprobs_RV.topk(min(count, raw_RV.shape[1]))))
    choices = [Choice(token_id) for token_id in chosen_R.tolist()]
    for numbers, own_R, values_RK, ids_RK in parts:
        read = zip(numbers, own_R.tolist(), ids_RK.tolist(), values_RK.tolist(), strict=True)
        for row, logprob, ids, values in read:
            choices[row] = Choice(choices[row].token_id, logprob, tuple(zip(ids, values, strict=True)))
    return choices
