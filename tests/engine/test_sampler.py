"""The sampler against HF transformers' processors, OpenAI's formulas and counted frequencies."""

from __future__ import annotations

import pytest
import torch

from tessera.engine.request import Request
from tessera.engine.sampler import Sampler
from tessera.engine.text import TextStream
from tessera.prompt import Prompt
from tessera.sampling import SamplingParams
from tests.engine.tiny import EOS, ByteDetokenizer

VOCAB = 50


def request(params: SamplingParams, prompt_ids: tuple[int, ...] = (1, 5), output: tuple[int, ...] = ()) -> Request:
    generator = torch.Generator().manual_seed(params.seed or 0)
    made = Request(
        id="r",
        prompt=Prompt(ids=prompt_ids, images=()),
        params=params,
        max_tokens=100,
        text=TextStream(ByteDetokenizer(), ()),
        generator=generator,
    )
    made.ids.extend(output)
    return made


def draws(logits_V: torch.Tensor, wanted: Request, count: int, banned: set[int] = frozenset()) -> torch.Tensor:
    """How often each id comes out of `count` draws, in rows of which each takes the generator's next number."""
    sampler, rows = Sampler(len(logits_V), banned, EOS, torch.device("cpu")), 100
    together = [sampler.sample(logits_V.repeat(rows, 1), [wanted] * rows) for _ in range(count // rows)]
    found = [choice.token_id for choices in together for choice in choices]
    assert len(found) == count
    return torch.bincount(torch.tensor(found), minlength=len(logits_V))


def chi_square(counts_V: torch.Tensor, probabilities_V: torch.Tensor) -> tuple[float, int]:
    """The statistic and its degrees of freedom; ids of probability 0 must never occur."""
    possible = probabilities_V > 0
    assert counts_V[~possible].sum() == 0
    expected = probabilities_V[possible] * counts_V.sum()
    return float(((counts_V[possible] - expected) ** 2 / expected).sum()), int(possible.sum()) - 1


@pytest.mark.parametrize(
    "changes",
    [
        {"temperature": 1.0},
        {"temperature": 0.6, "top_k": 7},
        {"temperature": 1.7, "top_p": 0.8},
        {"temperature": 1.0, "min_p": 0.2},
        {"temperature": 1.2, "top_k": 20, "top_p": 0.9, "min_p": 0.05, "repetition_penalty": 1.3},
        {"temperature": 1.0, "top_k": 1},
        {"temperature": 1.0, "top_p": 1e-6},
    ],
)
def test_draws_have_the_distribution_of_transformers(changes: dict[str, float]) -> None:
    import transformers  # here, since every process that collects the tests imports this module

    torch.manual_seed(3)
    logits_V = torch.randn(VOCAB) * 2
    wanted = request(SamplingParams(seed=11, **changes), output=(7, 7, 9))
    ids = torch.tensor([wanted.ids])
    scores = logits_V[None].clone()
    if "repetition_penalty" in changes:
        scores = transformers.RepetitionPenaltyLogitsProcessor(changes["repetition_penalty"])(ids, scores)
    scores = transformers.TemperatureLogitsWarper(changes["temperature"])(ids, scores)
    warpers = transformers.TopKLogitsWarper, transformers.TopPLogitsWarper, transformers.MinPLogitsWarper
    for name, warper in zip(("top_k", "top_p", "min_p"), warpers, strict=True):
        if name in changes:
            scores = warper(changes[name])(ids, scores)
    statistic, freedom = chi_square(draws(logits_V, wanted, 3000), scores.softmax(-1)[0])
    # Mean is the degrees of freedom, variance twice that; five standard deviations, fixed seeds.
    assert statistic <= freedom + 5 * (2 * freedom) ** 0.5


def test_frequency_and_presence_penalties_are_openais() -> None:
    logits_V = torch.linspace(0, 1, VOCAB)
    params = SamplingParams(frequency_penalty=0.4, presence_penalty=0.3)
    made = request(params, prompt_ids=(30,), output=(49, 49, 48))
    Sampler(VOCAB, (), EOS, torch.device("cpu"))._adjust(adjusted := logits_V.clone(), made)
    expected = logits_V.clone()
    expected[49] -= 2 * 0.4 + 0.3
    expected[48] -= 0.4 + 0.3
    torch.testing.assert_close(adjusted, expected)  # the prompt's own id 30 is not penalised


def test_repetition_penalty_counts_the_prompt_as_transformers_does() -> None:
    import transformers

    torch.manual_seed(0)
    logits_V = torch.randn(VOCAB)
    made = request(SamplingParams(repetition_penalty=1.8), prompt_ids=(1, 5, 5, 8), output=(9,))
    expected = transformers.RepetitionPenaltyLogitsProcessor(1.8)(torch.tensor([made.ids]), logits_V[None].clone())[0]
    Sampler(VOCAB, (), EOS, torch.device("cpu"))._adjust(logits_V, made)
    torch.testing.assert_close(logits_V, expected)


def test_banned_ids_are_never_chosen_even_when_likeliest() -> None:
    logits_V = torch.zeros(VOCAB)
    logits_V[10] = 50.0
    logits_V[49] = 40.0
    sampler = Sampler(VOCAB, {10, 49}, EOS, torch.device("cpu"))
    greedy = sampler.sample(logits_V[None], [request(SamplingParams(logprobs=1))])[0]
    assert greedy.token_id not in (10, 49)
    assert greedy.top[0][0] == 10  # the log-probabilities are the model's own
    counts = draws(logits_V, request(SamplingParams(temperature=1.0, seed=1)), 300, {10, 49})
    assert counts[[10, 49]].sum() == 0


def test_min_tokens_keeps_eos_and_stop_ids_away_until_they_are_allowed() -> None:
    logits_V = torch.zeros(VOCAB)
    logits_V[EOS], logits_V[7], logits_V[8] = 9.0, 8.0, 1.0
    params = SamplingParams(min_tokens=2, stop_token_ids=(7,))
    sampler = Sampler(VOCAB, (), EOS, torch.device("cpu"))
    for output, expected in (((), 8), ((8,), 8), ((8, 8), EOS)):
        assert sampler.sample(logits_V[None], [request(params, output=output)])[0].token_id == expected


def test_logprobs_are_of_the_raw_distribution() -> None:
    torch.manual_seed(1)
    logits_V = torch.randn(VOCAB)
    params = SamplingParams(temperature=0.3, top_k=3, logprobs=4, seed=5, frequency_penalty=1.0)
    choice = Sampler(VOCAB, (), EOS, torch.device("cpu")).sample(logits_V[None], [request(params)])[0]
    expected = logits_V.log_softmax(-1)
    assert choice.logprob == pytest.approx(float(expected[choice.token_id]))
    values, ids = expected.topk(4)
    assert [token_id for token_id, _ in choice.top] == ids.tolist()
    assert [logprob for _, logprob in choice.top] == pytest.approx(values.tolist())


def test_a_row_draws_the_same_bits_alone_and_among_others() -> None:
    torch.manual_seed(2)
    logits_RV = torch.randn(6, VOCAB)
    settings = [
        SamplingParams(temperature=1.0, seed=3),
        SamplingParams(temperature=1.0, seed=3, top_k=5),
        SamplingParams(temperature=0.7, seed=4, top_p=0.5),
        SamplingParams(),
        SamplingParams(temperature=2.0, seed=9, min_p=0.1, repetition_penalty=1.2),
        SamplingParams(temperature=1e-4, seed=1),
    ]
    sampler = Sampler(VOCAB, (), EOS, torch.device("cpu"))
    together, alone = [request(each) for each in settings], [request(each) for each in settings]
    for _ in range(30):
        expected = [sampler.sample(logits_RV[row : row + 1], [each])[0] for row, each in enumerate(alone)]
        assert sampler.sample(logits_RV, together) == expected


def test_a_row_that_is_no_distribution_spoils_only_itself() -> None:
    logits_RV = torch.zeros(4, VOCAB)
    logits_RV[0, 3], logits_RV[2, 3], logits_RV[3] = torch.nan, torch.inf, -torch.inf
    sampler = Sampler(VOCAB, (), EOS, torch.device("cpu"))
    requests = [request(SamplingParams(temperature=1.0, seed=row)) for row in range(4)]
    choices = sampler.sample(logits_RV, requests)
    assert [choice is None for choice in choices] == [True, False, True, True]
