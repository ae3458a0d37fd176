"""The engine: takes requests and returns pieces of text, one step at a time.

It is synchronous and has no threads, so a test can step it by hand; otherwise `loop` drives it.
A fault of one request ends only that request. A failed step is computed again for each request alone;
only if several in a row fail does the engine raise, and it is not used again. With several devices a
failed step leaves the other ranks mid-step, so it ends the engine.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Protocol

import torch
from torch import Tensor

from tessera.chat import Delta, FinishReason, TokenLogprob
from tessera.engine.adapters import Adapters
from tessera.engine.admission import Submission, check_request, check_room, pixel_bytes
from tessera.engine.batch import ScoredRows, build_batch
from tessera.engine.blocks import BlockPool
from tessera.engine.config import EngineConfig
from tessera.engine.decode_graphs import DecodeGraphs
from tessera.engine.drafter import Drafter
from tessera.engine.grammar import GrammarCompiler, GrammarTokenizer, Matcher
from tessera.engine.image_cache import ImageCache
from tessera.engine.kv_cache import KVCache
from tessera.engine.ranks import LeadingRunner, Ranks
from tessera.engine.request import Chunk, Request
from tessera.engine.runner import Runner
from tessera.engine.sampler import Choice, Sampler, with_logprobs
from tessera.engine.scheduler import Scheduler
from tessera.engine.soundness import Soundness
from tessera.engine.states import StatePrompt, keep_states
from tessera.engine.tally import Stats, Tally
from tessera.engine.text import Detokenizer, TextStream
from tessera.engine.watch import WatchedPrompt
from tessera.errors import DeadEndError, EngineDeadError, NotFiniteError, ReplyError, TesseraError
from tessera.lora.slots import Slots
from tessera.machine import upload
from tessera.model.pixtral import Pixtral
from tessera.parallel.shard import Shard
from tessera.prompt import Prompt
from tessera.sampling import SamplingParams

logger = logging.getLogger(__name__)

NOT_COMPUTED = "the reply could not be computed; the log has the details."
FAILURES_IN_A_ROW = 3  # failed computations of single requests: then the fault is not the requests'
SCORED_ROWS_PER_CALL = 32  # rows of a prompt: at 131,072 ids a row of logits is half a megabyte


class EngineTokenizer(GrammarTokenizer, Protocol):
    """What the engine needs from a tokenizer, in addition to what grammars need."""

    @property
    def prompt_only_ids(self) -> frozenset[int]:
        """Special tokens that a model never writes: image tokens and all control tokens but eos and tool calls."""
        ...

    def token_text(self, token_id: int) -> str: ...

    def detokenizer(self) -> Detokenizer: ...


@dataclass(frozen=True)
class _Computed:
    """Result of a step: requests to be sampled, their drafts and logits, hidden states, and rows to be scored."""

    requests: list[Request]
    drafts: list[tuple[int, ...]]
    logits_RV: Tensor | None  # for each request a row for its next token and one after each draft token
    scored: list[tuple[ScoredRows, Tensor]]
    ids: list[int] | None = None  # chosen already, one for each row, instead of logits


class Engine:
    def __init__(
        self,
        model: Pixtral,
        tokenizer: EngineTokenizer,
        config: EngineConfig,
        ranks: Ranks | None = None,
        shard: Shard | None = None,
    ) -> None:
        """`shard` is the part of the model in this process; None: all of it."""
        shard = Shard(model.config, 0, 1) if shard is None else shard
        self.config = config
        self.model = model
        self.tokenizer = tokenizer
        self.soundness = Soundness(model)
        self.pool = BlockPool(config.num_blocks)
        self.cache = KVCache(model.config, config.num_blocks, config.block_tokens, config.cache_dtype, model.device)
        self.images = ImageCache(config.image_cache_bytes)
        self.ranks = ranks
        self.adapters = Adapters(shard.config, config, model.dtype)
        slots = Slots(model, shard) if config.max_loras else None
        self.runner = Runner(model, self.images, slots)
        if ranks is not None:
            ranks.begin(config)
            self.runner = LeadingRunner(self.runner, self.cache, ranks)
        self.graphs: DecodeGraphs | None = None
        if config.cuda_graphs:
            self.graphs = DecodeGraphs(
                model, self.cache, max_num_seqs=config.max_num_seqs, max_model_len=config.max_model_len
            )
        vocab_size = model.config.vocab_size
        banned = tokenizer.prompt_only_ids | set(range(tokenizer.vocab_size, vocab_size))
        self.sampler = Sampler(vocab_size, banned, tokenizer.eos_id, model.device)
        drafter = Drafter(config, banned | {tokenizer.eos_id}) if config.num_speculative_tokens else None
        self.scheduler = Scheduler(config, self.pool, drafter)
        self.grammars = GrammarCompiler(tokenizer, vocab_size)
        self._requests: dict[str, Request] = {}  # unfinished
        self._ended: list[tuple[Request, Delta]] = []  # final events, returned by the next step
        self._seeds = random.Random(config.seed)
        self._failures = 0  # in a row
        self._tally = Tally()

    @property
    def has_work(self) -> bool:
        return bool(self._requests or self._ended)

    @property
    def num_waiting(self) -> int:
        """Number of waiting requests; unlike `stats` it is cheap enough to read for every request."""
        return len(self.scheduler.waiting)

    def start_grammar(self, params: SamplingParams) -> Matcher | None:
        """Return the matcher for a request with these parameters; may take seconds, any thread may call it."""
        return None if params.grammar is None else self.grammars.matcher(params.grammar)

    def add(
        self, prompt: Prompt, params: SamplingParams, *, request_id: str | None = None, cache_salt: str = ""
    ) -> Request:
        """Admit a request and queue it. Raises PromptTooLongError, UsageError or EngineBusyError."""
        check_request(prompt, params, self.config, self.model.config)
        adapter = self.adapters.get(params.adapter)
        submission = Submission.of(prompt, params, request_id, cache_salt, self.start_grammar(params), adapter)
        held_bytes = {id: pixel_bytes(request.prompt) for id, request in self._requests.items()}
        check_room(submission, self.config, waiting=self.scheduler.num_new, held_bytes=held_bytes)
        return self.queue(submission)

    def queue(self, submission: Submission) -> Request:
        """Queue an admitted request; on failure nothing of it is kept."""
        prompt, params = submission.prompt, submission.params
        generator = torch.Generator()
        generator.manual_seed(self._seeds.getrandbits(63) if params.seed is None else params.seed)
        room = self.config.max_model_len - len(prompt.ids)
        request = Request(
            id=submission.request_id,
            prompt=prompt,
            params=params,
            max_tokens=room if params.max_tokens is None else min(params.max_tokens, room),
            text=TextStream(self.tokenizer.detokenizer(), params.stop),
            generator=generator,
            cache_salt=submission.cache_salt,
            matcher=submission.matcher,
            adapter=submission.adapter,
        )
        if self.config.enable_prefix_caching:
            request.hash_blocks(self.config.block_tokens)  # here, so that a failure is this request's
        self.scheduler.add(request)
        self._requests[request.id] = request
        if request.adapter is not None:
            request.adapter.num_requests += 1
            request.adapter.num_unfinished += 1
        return request

    def abort(self, request_id: str) -> bool:
        """End a request now; the next step returns its last event. Returns False if the request does not exist."""
        request = self._requests.get(request_id)
        if request is None:
            return False
        self._ended.append((request, self._end(request, "abort", "")))
        return True

    def step(self) -> list[tuple[Request, Delta]]:
        """Compute one step; returns a delta for each request that progressed."""
        events, self._ended = self._ended, []
        if not self._requests:
            return events
        chunks = self.scheduler.schedule()
        if not chunks:
            raise RuntimeError("nothing could be scheduled though requests are waiting")
        events += self._compute(chunks)
        self._tally.steps += 1
        return events

    def close(self) -> None:
        """Stop the processes that work for this engine."""
        self.grammars.close()
        if self.ranks is not None:
            self.ranks.close()

    def _compute(self, chunks: Sequence[Chunk]) -> list[tuple[Request, Delta]]:
        """Compute the chunks together; if that fails, compute each alone and end the requests that fail again."""
        try:
            step = self._forward(chunks)
        except EngineDeadError:  # a rank ended, and so did the engine
            raise
        except Exception:  # any failure: nothing was recorded yet, so the chunks can be computed again
            if len(chunks) > 1:
                logger.exception("a step of %d requests failed and is computed for each alone", len(chunks))
                return [event for chunk in chunks for event in self._compute([chunk])]
            self._failures += 1
            if self._failures == FAILURES_IN_A_ROW:
                raise
            request = chunks[0].request
            logger.exception("request %s ended, for it could not be computed", request.id)
            return [(request, self._fail(request, ReplyError(NOT_COMPUTED)))]
        self._failures = 0
        for chunk in chunks:
            self.scheduler.advance(chunk.request, chunk.end)
        for rows, hidden_TD in step.scored:
            self._score(hidden_TD, rows)
        return self._choose(step)

    def _forward(self, chunks: Sequence[Chunk]) -> _Computed:
        """Run the model over the chunks, with a graph if one fits."""
        if slots := {chunk.request.slot for chunk in chunks} - {None}:
            for slot, adapter in self.scheduler.slots.unfilled(slots):
                self.runner.fill(slot, adapter)
                self.scheduler.slots.filled(slot)
        is_watched = any(isinstance(chunk.request.prompt, WatchedPrompt | StatePrompt) for chunk in chunks)
        # The graphs were captured without adapters.
        if self.graphs is not None and not is_watched and not slots and self.graphs.take(chunks):
            requests, drafts = [chunk.request for chunk in chunks], [chunk.draft for chunk in chunks]
            return _Computed(requests, drafts, self.graphs.logits(chunks), [])
        image_token_id = self.model.config.vision_encoder.image_token_id
        batch = build_batch(chunks, self.cache, self.model.device, image_token_id)
        hidden_TD, ids = self.runner.run(batch, self.sampler.penalties_for(batch.sampled))
        hidden_RD = hidden_TD[batch.sampled_rows_R] if ids is None else hidden_TD  # with ids all rows are sampled
        keep_states(batch.sampled, batch.drafts, hidden_RD)
        logits_RV = self.runner.logits(hidden_RD, batch.sampled_stretches) if ids is None else None
        return _Computed(batch.sampled, batch.drafts, logits_RV, [(rows, hidden_TD) for rows in batch.scored], ids)

    def _choose(self, step: _Computed) -> list[tuple[Request, Delta]]:
        """Choose each request's next token, and the one after it for as long as the draft is right.

        A drafted token's row of logits is used only once that token has been chosen by the rules, penalties,
        grammar and random numbers of its position: a draft changes how many tokens a step yields, never which.
        """
        first_rows = [0, *accumulate(1 + len(draft) for draft in step.drafts)]
        going_on, depth = list(range(len(step.requests))), 0
        events = []
        for draft in step.drafts:
            self._tally.drafts.add(len(draft))
        while going_on:
            requests = [step.requests[index] for index in going_on]
            rows = [first_rows[index] + depth for index in going_on]
            choices = self._choices(step, rows, requests)
            accepted = []
            for row, index, request, choice in zip(rows, going_on, requests, choices, strict=True):
                logits_RV = step.logits_RV
                finite = choice is not None or (logits_RV is not None and bool(logits_RV[row].amax().isfinite()))
                delta = self._extend(request, choice, finite=finite)
                events.append((request, delta))
                if choice is not None and choice.token_id in step.drafts[index][depth : depth + 1]:
                    self._tally.drafts.accepted += 1
                    if delta.finish_reason is None:
                        self.scheduler.advance(request, len(request.ids))
                        accepted.append(index)
            going_on, depth = accepted, depth + 1
        return events

    def _choices(self, step: _Computed, rows: list[int], requests: Sequence[Request]) -> Sequence[Choice | None]:
        if step.logits_RV is None:
            assert step.ids is not None  # one of both is there
            return [Choice(step.ids[row]) for row in rows]
        return self.sampler.sample(step.logits_RV[upload(rows, torch.int64, step.logits_RV.device)], requests)

    def stats(self) -> Stats:
        return self._tally.stats(
            waiting=self.num_waiting,
            running=len(self.scheduler.running),
            preemptions=self.scheduler.num_preemptions,
            blocks=self.pool.counts(),
            images=(self.images.bytes_used, self.images.queries, self.images.hits),
        )

    def _score(self, hidden_TD: Tensor, rows: ScoredRows) -> None:
        """Record the log-probabilities of prompt tokens, a few rows of logits at a time."""
        count = rows.request.params.prompt_logprobs
        for start in range(0, len(rows.target_ids), SCORED_ROWS_PER_CALL):
            target_ids = rows.target_ids[start : start + SCORED_ROWS_PER_CALL]
            row = rows.row + start
            slot = rows.request.slot
            logits_RV = self.runner.logits(
                hidden_TD[row : row + len(target_ids)], () if slot is None else ((slot, 0, None),)
            )
            target_ids_R = upload(target_ids, torch.int64, logits_RV.device)
            for choice in with_logprobs(logits_RV, target_ids_R, [count] * len(target_ids)):
                rows.request.prompt_logprobs += self._logprobs(choice)

    def _extend(self, request: Request, choice: Choice | None, *, finite: bool) -> Delta:
        """Add the chosen token to the reply, and end the reply if it is the last."""
        if choice is None:
            return self._fail(request, self._cause(request, finite=finite))
        self.soundness.succeed()
        try:
            delta = self._append(request, choice)
            if request.params.prompt_logprobs is None or request.num_output > 1:
                return delta
            first_id = request.prompt.ids[0]
            first = TokenLogprob(first_id, self.tokenizer.token_text(first_id), None)
            return replace(delta, prompt_logprobs=(first, *request.prompt_logprobs))
        except Exception:  # a decoding fault ends this request only
            logger.exception("request %s ended by an error", request.id)
            return self._fail(request, ReplyError(NOT_COMPUTED))

    def _cause(self, request: Request, *, finite: bool) -> TesseraError:
        """Return the reason that no token can be chosen."""
        if not finite and request.adapter is not None:
            name = request.adapter.name
            return NotFiniteError(f"the model's numbers are not finite with the adapter {name}; train it again.")
        if not finite:
            return self.soundness.fail()
        if request.matcher is not None and request.matcher.has_failed:
            return DeadEndError(
                "the reply's grammar or schema came to a dead end, or grew too complex to follow; simplify it."
            )
        return ReplyError("no token may follow in this reply, and it is not complete; the log has the details.")

    def _fail(self, request: Request, error: TesseraError) -> Delta:
        logger.error("request %s ended: %s", request.id, error)
        return replace(self._end(request, "error", ""), error=error)

    def _append(self, request: Request, choice: Choice) -> Delta:
        params, token_id = request.params, choice.token_id
        logprobs = self._logprobs(choice)
        before_s = request.last_token_s
        request.append(token_id)
        if before_s is not None and request.last_token_s is not None:
            self._tally.token_intervals.add(request.last_token_s - before_s)
        if request.matcher is not None:
            request.matcher.accept(token_id)
        if (token_id == self.tokenizer.eos_id and not params.ignore_eos) or token_id in params.stop_token_ids:
            return self._end(request, "stop", request.text.finish(), (token_id,), logprobs)
        text = request.text.add(token_id, may_stop=request.num_output >= params.min_tokens)
        if request.text.stopped:
            return self._end(request, "stop", text, (token_id,), logprobs)
        complete = request.matcher is not None and request.matcher.finished
        if complete or request.num_output >= request.max_tokens:
            text += request.text.finish()
            reason: FinishReason = "stop" if complete or request.text.stopped else "length"
            return self._end(request, reason, text, (token_id,), logprobs)
        return Delta(text, (token_id,), logprobs)

    def _end(
        self,
        request: Request,
        reason: FinishReason,
        text: str,
        token_ids: tuple[int, ...] = (),
        logprobs: tuple[TokenLogprob, ...] = (),
    ) -> Delta:
        """Release all that a request holds; every request ends here."""
        self.scheduler.finish(request)
        del self._requests[request.id]
        if request.adapter is not None:
            request.adapter.num_unfinished -= 1
        request.finish_reason = reason
        usage = request.usage()
        self._tally.finish(reason, usage)
        stop_string = request.text.stopped_by if reason == "stop" else None
        return Delta(text, token_ids, logprobs, reason, usage, request.timings(), stop_string=stop_string)

    def _logprobs(self, choice: Choice) -> tuple[TokenLogprob, ...]:
        if choice.logprob is None:
            return ()
        text = self.tokenizer.token_text
        top = tuple((token_id, text(token_id), logprob) for token_id, logprob in choice.top)
        return (TokenLogprob(choice.token_id, text(choice.token_id), choice.logprob, top),)
