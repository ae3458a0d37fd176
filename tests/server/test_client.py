"""The HTTP client beside the engine it asks: the same replies, the same errors, and patience with servers that fail."""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from PIL import Image as PILImage
from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

from tessera import client as client_module
from tessera.chat import ChatModel, Completion, Tools
from tessera.client import Client
from tessera.documents.api import budget_of, extract
from tessera.documents.plan import Budget
from tessera.errors import (
    EndpointError,
    EngineBusyError,
    ImageError,
    KeyRefusedError,
    ModelNotFoundError,
    PromptTooLongError,
    TooManyImagesError,
    UsageError,
)
from tessera.messages import Image, Message
from tessera.pool import Pool
from tessera.sampling import Grammar, SamplingParams
from tests import forks
from tests.server.conftest import DEMO, Running

CHART = Image((DEMO / "chart.png").read_bytes())
QUESTION = [Message("user", (CHART, "What is the value of Rome?"))]
BOOK = {
    "type": "function",
    "function": {
        "name": "book",
        "parameters": {"type": "object", "properties": {"n": {"type": "integer", "minimum": 0, "maximum": 9}}},
    },
}
REPLY = {
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "71"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 9, "completion_tokens": 2},
}


@pytest.fixture
def client(running: Running) -> Iterator[Client]:
    with Client(running.url) as client:
        yield client


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Pauses are noted and not waited for."""
    pauses: list[float] = []
    monkeypatch.setattr(client_module, "_pause_for", lambda _, seconds: pauses.append(seconds))
    return pauses


def stub(server: HTTPServer, *answers: Callable[[Request], Response] | Response) -> Client:
    """A client of a server that gives these answers, one each time, the last again and again."""
    left = list(answers)

    def answer(request: Request) -> Response:
        given = left.pop(0) if len(left) > 1 else left[0]
        return given if isinstance(given, Response) else given(request)

    server.expect_request("/v1/chat/completions").respond_with_handler(answer)
    return Client(server.url_for("/"), model="m", max_retries=3)


def events(*objects: Any) -> Response:
    text = "".join(f"data: {json.dumps(each)}\n\n" for each in objects) + "data: [DONE]\n\n"
    return Response(": alive\n\n" + text, content_type="text/event-stream")


def whole(reply: Any) -> Response:
    return Response(json.dumps(reply), content_type="application/json")


def choosing(**changes: Any) -> dict[str, Any]:
    """A reply whose only choice is another one in these fields."""
    return REPLY | {"choices": [REPLY["choices"][0] | changes]}


def failing(status: int, headers: dict[str, str] | None = None, **error: Any) -> Response:
    return Response(json.dumps({"error": error}), status, headers, content_type="application/json")


# Beside the engine ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "params",
    [
        SamplingParams(),
        SamplingParams(max_tokens=3),
        SamplingParams(temperature=1.0, seed=7, top_k=20, min_p=0.01, max_tokens=8),
        SamplingParams(grammar=Grammar("regex", "[a-c]{4}")),
        SamplingParams(grammar=Grammar("choice", '["yes", "no"]')),
        SamplingParams(grammar=Grammar("json_object"), max_tokens=9),
        SamplingParams(grammar=Grammar("lark", 'start: "a" "b"')),
        SamplingParams(stop=("1",), repetition_penalty=1.1, logit_bias={1049: 2.0}),
    ],
    ids=["greedy", "cut", "drawn", "regex", "choice", "json", "lark", "stop"],
)
def test_replies_are_the_engines(client: Client, running: Running, params: SamplingParams) -> None:
    ours, theirs = running.llm.chat(QUESTION, params), client.chat(QUESTION, params)
    assert (theirs.text, theirs.finish_reason) == (ours.text, ours.finish_reason)
    assert theirs.usage.prompt_tokens == ours.usage.prompt_tokens
    assert theirs.usage.completion_tokens == ours.usage.completion_tokens
    assert theirs.usage.image_tokens == ours.usage.image_tokens


def test_every_kind_of_source_reaches_the_server(client: Client) -> None:
    image = PILImage.open(DEMO / "chart.png")
    sources = [DEMO / "chart.png", str(DEMO / "chart.png"), (DEMO / "chart.png").read_bytes(), image]
    assert {client.ask("What is the value of Rome?", source).text for source in sources} == {client.chat(QUESTION).text}


def test_logprobs_and_tools_come_through(client: Client, running: Running) -> None:
    params = SamplingParams(max_tokens=2, logprobs=2)
    ours, theirs = running.llm.chat(QUESTION, params), client.chat(QUESTION, params)
    told = [(entry.token, round(entry.logprob or 0, 3), len(entry.top)) for entry in theirs.logprobs]
    assert told == [(entry.token, round(entry.logprob or 0, 3), len(entry.top)) for entry in ours.logprobs]
    made = client.chat(QUESTION, SamplingParams(max_tokens=120), tools=Tools([BOOK], "required", parallel=False))
    assert [call.name for call in made.tool_calls] == ["book"]
    assert isinstance(json.loads(made.tool_calls[0].arguments), dict)


def test_a_server_tells_what_its_model_takes_and_documents_are_read_alike(client: Client, running: Running) -> None:
    assert client.vision == running.llm.vision
    assert budget_of(client) == budget_of(Pool([client])) == budget_of(running.llm)
    ours, theirs = (list(extract(DEMO / "receipt.png", "preset:receipt", model)) for model in (running.llm, client))
    assert [each.value for each in theirs] == [each.value for each in ours]
    assert [each.usage.prompt_tokens for each in theirs] == [each.usage.prompt_tokens for each in ours]


def test_each_is_lazy_in_order_and_gives_errors_where_they_belong(client: Client, running: Running) -> None:
    taken = 0
    unreadable = [Message("user", (Image("/nope.png"), "?"))]

    def conversations() -> Iterator[list[Message]]:
        nonlocal taken
        for number in range(40):
            taken += 1
            yield unreadable if number == 1 else QUESTION

    models: list[ChatModel] = [client, running.llm]
    for model in models:
        taken = 0
        replies = model.each(conversations(), SamplingParams(max_tokens=2))
        first = next(replies)
        assert isinstance(first, Completion)
        assert taken < 40 or model is running.llm
        assert isinstance(next(replies), ImageError)
        assert [reply.text for reply in replies if isinstance(reply, Completion)] == [first.text] * 38
        with pytest.raises(ImageError, match=r"^conversation 1: .*nope\.png"):
            model.batch([QUESTION, unreadable], SamplingParams(max_tokens=2))


def test_errors_are_of_the_engines_classes(client: Client, running: Running) -> None:
    models: list[ChatModel] = [client, running.llm]
    for model in models:
        with pytest.raises(PromptTooLongError):
            model.ask("long " * 5000)
        with pytest.raises(TooManyImagesError):
            model.chat([Message("user", (*[CHART] * 65, "?"))])
        with pytest.raises(ImageError):
            model.ask("?", b"no image")
        with pytest.raises(UsageError) as wrong:
            model.chat([{"role": "robot", "content": "x"}])
        assert wrong.value.param == "messages.0.role"
    with Client(running.url, model="other") as other, pytest.raises(ModelNotFoundError):
        other.ask("hi")
    assert client.model_name == "nano"


def test_a_stream_that_is_left_ends_the_request(client: Client, running: Running) -> None:
    before = running.llm.stats().finished.get("abort", 0)
    for _ in client.stream(QUESTION, SamplingParams(ignore_eos=True, max_tokens=2000)):
        break
    for _ in range(200):
        if running.llm.stats().finished.get("abort", 0) > before:
            return
        threading.Event().wait(0.05)
    pytest.fail("the request went on")


# Beside a plain server -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "budget"),
    [
        (whole({"data": [{"id": "m", "object": "model", "max_model_len": 8192}]}), Budget(context_tokens=8192)),  # vLLM
        (whole({"data": [{"id": "m", "max_context_length": 131072}]}), Budget(context_tokens=131072)),  # Mistral
        (whole({"data": [{"id": "m", "context_length": 32768}]}), Budget(context_tokens=32768)),  # OpenRouter
        (whole({"data": [{"id": "m", "max_model_len": "8192", "vision_encoder": {"image_size": 64}}]}), Budget()),
        (whole({"data": [{"id": "m", "max_model_len": True, "aliases": 3, "vision_encoder": "clip"}]}), Budget()),
        (whole({"data": [{"id": "of another model", "max_model_len": 9}, 7]}), Budget()),
        (whole({"data": [{"id": "x", "aliases": ["m"], "max_model_len": 9}]}), Budget(context_tokens=9)),
        (whole({"data": [{"id": "m", "max_model_len": -8192}]}), Budget()),
        (whole({"data": [{"id": "m", "max_model_len": 10**4000}]}), Budget()),
        (whole([]), Budget()), (Response("<html>", content_type="text/html"), Budget()),
        (failing(404), Budget()), (failing(405), Budget()), (failing(403), Budget()),
    ],
)  # fmt: skip
def test_what_another_server_does_not_tell_is_as_for_pixtral(
    httpserver: HTTPServer, answer: Response, budget: Budget
) -> None:
    httpserver.expect_request("/v1/models").respond_with_handler(lambda _: answer)
    assert budget_of(Client(httpserver.url_for("/"), model="m", max_retries=0)) == budget


@pytest.mark.parametrize(
    "change",
    [{"image_size": -1024}, {"image_size": 2**40}, {"patch_size": 0}, {"patch_size": math.nan}, {"hidden_size": 2**70},
     {"hidden_size": None}, {"spatial_merge_size": True}, {"mm_projector_id": [7]}, {"rope_theta": []}],
    ids=str,
)  # fmt: skip
def test_no_vision_encoder_of_impossible_sizes_is_believed(
    running: Running, httpserver: HTTPServer, change: dict[str, Any]
) -> None:
    vision = asdict(running.llm.vision)
    told = whole({"data": [{"id": "m", "vision_encoder": vision}, {"id": "n", "vision_encoder": vision | change}]})
    httpserver.expect_request("/v1/models").respond_with_handler(lambda _: told)
    good, bad = (Client(httpserver.url_for("/"), model=name, max_retries=0) for name in "mn")
    assert budget_of(good).image_side == running.llm.vision.image_size
    assert budget_of(bad) == Budget()


@pytest.mark.parametrize(("status", "kind"), [(503, EndpointError), (429, EngineBusyError), (401, KeyRefusedError)])
def test_a_server_that_may_tell_later_is_not_taken_for_one_that_tells_nothing(
    httpserver: HTTPServer, status: int, kind: type[Exception]
) -> None:
    httpserver.expect_ordered_request("/v1/models").respond_with_data("", status=status)
    httpserver.expect_ordered_request("/v1/models").respond_with_json({"data": [{"id": "m", "max_model_len": 9}]})
    with Client(httpserver.url_for("/"), model="m", max_retries=0) as client:
        with pytest.raises(kind):
            budget_of(client)
        assert budget_of(client).context_tokens == 9


def test_a_plain_server_needs_neither_streams_nor_usage(httpserver: HTTPServer) -> None:
    seen: list[Any] = []

    def answer(request: Request) -> Response:
        seen.append(request.json)
        return Response(json.dumps(REPLY), content_type="application/json")

    with stub(httpserver, answer) as client:
        reply = client.chat([{"role": "user", "content": "hi"}], SamplingParams(max_tokens=5))
    assert (reply.text, reply.finish_reason, reply.usage.completion_tokens) == ("71", "stop", 2)
    assert seen[0] == {
        "model": "m",
        "messages": [{"role": "user", "content": "hi"}],
        "max_tokens": 5,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def test_requests_name_their_images_for_proxies(httpserver: HTTPServer) -> None:
    seen: list[str | None] = []

    def answer(request: Request) -> Response:
        seen.append(request.headers.get("x-tessera-pages"))
        return Response(json.dumps(REPLY), content_type="application/json")

    with stub(httpserver, answer) as client:
        client.chat(QUESTION)
        client.chat([Message("user", (CHART, "Another question?"))])
        client.chat([Message("user", (Image((DEMO / "receipt.png").read_bytes()), "What?"))])
        client.chat([Message("user", ("No image.",))])
    assert seen[0] == seen[1] != seen[2]
    assert seen[0] is not None
    assert len(seen[0]) == 32
    assert seen[3] is None


def test_streamed_calls_are_joined(httpserver: HTTPServer) -> None:
    def piece(**delta: Any) -> dict[str, Any]:
        return {"choices": [{"index": 0, "delta": delta, "finish_reason": None}]}

    call = {"index": 0, "id": "a", "function": {"name": "book", "arguments": '{"n"'}}
    rest = {"index": 0, "function": {"arguments": ": 1}"}}
    end = {"choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}]}
    answer = events(piece(content="so"), piece(tool_calls=[call]), piece(tool_calls=[rest]), end)
    with stub(httpserver, answer) as client:
        deltas = list(client.stream([{"role": "user", "content": "hi"}], tools=[BOOK]))
    assert [delta.text for delta in deltas] == ["so", ""]
    assert [(each.id, each.name, each.arguments) for each in deltas[-1].tool_calls] == [("a", "book", '{"n": 1}')]
    assert deltas[-1].finish_reason == "stop"


def test_what_passes_by_itself_is_tried_again(httpserver: HTTPServer, quick: list[float]) -> None:
    good = Response(json.dumps(REPLY), content_type="application/json")
    with stub(httpserver, failing(429, {"retry-after": "7"}, message="full"), failing(503), good) as client:
        assert client.ask("hi").text == "71"
    assert quick[0] == 7
    assert len(quick) == 2


@pytest.mark.parametrize(
    ("answer", "kind", "says", "tries"),
    [
        (lambda: failing(429, message="full"), EngineBusyError, "full", 4),
        (lambda: failing(503, message="loading"), EndpointError, "loading", 4),
        (lambda: failing(503, {"x-should-retry": "false"}, message="dead"), EndpointError, "dead", 1),
        (lambda: failing(400, message="bad", param="top_p"), UsageError, "bad", 1),
        (lambda: failing(401, message="no key"), KeyRefusedError, "no key .* give another key", 1),
        (lambda: failing(400, message="long", code="context_length_exceeded"), PromptTooLongError, "long", 1),
        (lambda: Response("<html>", 502), EndpointError, "answered 502", 4),
        (lambda: Response("<html>", 200, content_type="text/html"), EndpointError, "did not send JSON", 1),
        (lambda: events({"choices": [{"delta": {"content": "a"}}]}), EndpointError, "broke off", 1),
        (lambda: events({"error": {"message": "died", "code": 500}}), EndpointError, "died", 1),
        (lambda: events("text"), EndpointError, "did not send JSON", 1),
        (lambda: events({"choices": 5}), EndpointError, "did not send", 1),
        (lambda: Response("[" * 100_000, content_type="application/json"), EndpointError, "did not send JSON", 1),
        *[
            (lambda reply=reply: whole(reply), EndpointError, "did not send", 1)
            for reply in (
                REPLY | {"usage": {"prompt_tokens": "nine"}},
                REPLY | {"usage": [9]},
                REPLY | {"usage": {"prompt_tokens_details": "many"}},
                choosing(message="71"),
                choosing(message={"content": [{"type": "text", "text": "71"}]}),
                choosing(logprobs={"content": [{"text": "71"}]}),
                choosing(logprobs={"content": [{"token": "71", "logprob": "high"}]}),
                choosing(message={"tool_calls": [{"function": "book"}]}),
                choosing(message={"tool_calls": [{"index": [], "function": {"name": 5}}]}),
            )
        ],
    ],
)
def test_failures_are_told_and_tried_again_only_where_it_helps(
    httpserver: HTTPServer,
    quick: list[float],
    answer: Callable[[], Response],
    kind: type[Exception],
    says: str,
    tries: int,
) -> None:
    with stub(httpserver, lambda _: answer()) as client, pytest.raises(kind, match=says):
        client.ask("hi")
    assert len(quick) == tries - 1


@pytest.mark.parametrize(
    ("piece", "says"),
    [(b'data: {"choices": [{"delta": {"content": "xxxxxxxx"}}]}\n\n', "exceeds 200,000"), (b"x" * 1000, "event of")],
)
def test_a_reply_that_does_not_end_is_left(
    httpserver: HTTPServer, monkeypatch: pytest.MonkeyPatch, piece: bytes, says: str
) -> None:
    monkeypatch.setattr(client_module, "MAX_REPLY_BYTES", 10_000)
    monkeypatch.setattr(client_module, "MAX_STREAM_BYTES", 200_000)
    answer = Response((piece for _ in range(10_000)), content_type="text/event-stream")
    with stub(httpserver, answer) as client, pytest.raises(EndpointError, match=says):
        client.ask("hi")


def test_a_reply_that_drips_is_left_in_time(httpserver: HTTPServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "MAX_REPLY_S", 0.0)
    for kind in ("text/event-stream", "application/json"):
        answer = Response((b" " for _ in range(10)), content_type=kind)
        with stub(httpserver, answer) as client, pytest.raises(EndpointError, match="not whole after 0 s"):
            client.ask("hi")
        httpserver.clear()


def test_a_pause_that_is_no_number_is_not_waited_for(httpserver: HTTPServer, quick: list[float]) -> None:
    with stub(httpserver, failing(429, {"retry-after": "nan"}), whole(REPLY)) as client:
        assert client.ask("hi").text == "71"
    assert 0 < quick[0] < 1


def test_leaving_early_waits_for_no_other_reply(httpserver: HTTPServer) -> None:
    asked, free = threading.Event(), threading.Event()

    def answer(request: Request) -> Response:
        if request.json["messages"][0]["content"] != "0":
            asked.set()
            free.wait(60)
        return Response(json.dumps(REPLY), content_type="application/json")

    with stub(httpserver, answer) as client:
        for _ in client.each([{"role": "user", "content": str(number)}] for number in range(4)):
            assert asked.wait(60)
            break
        assert not free.is_set()  # the others are still being answered
        free.set()


def test_closing_ends_the_tries_of_requests_in_flight(httpserver: HTTPServer, monkeypatch: pytest.MonkeyPatch) -> None:
    paused, asked, errors = threading.Event(), [], []

    def answer(request: Request) -> Response:
        asked.append(request.json["messages"][0]["content"])
        return failing(503, message="loading")

    def pause(closed: threading.Event, _: float) -> None:
        paused.set()
        assert closed.wait(60)

    monkeypatch.setattr(client_module, "_pause_for", pause)
    with stub(httpserver, answer) as client:

        def ask() -> None:
            with pytest.raises(EndpointError, match="closed") as caught:
                client.ask("closing")
            errors.append(caught.value)

        thread = threading.Thread(target=ask)
        thread.start()
        assert paused.wait(60)
    thread.join(60)
    assert not thread.is_alive()
    assert len(errors) == asked.count("closing") == 1


def test_no_server_and_no_address_are_named(quick: list[float]) -> None:
    with Client("http://127.0.0.1:9", model="m", max_retries=1) as client, pytest.raises(EndpointError, match="start"):
        client.ask("hi")
    assert len(quick) == 1
    for wrong in ("localhost:8000", "ftp://host", "http://"):
        with pytest.raises(UsageError, match="is no address"):
            Client(wrong)
    assert Client("http://host:1/").base_url == Client("http://host:1/v1").base_url == "http://host:1/v1"


def test_the_example_asks_a_server_and_goes_on_after_a_failure(running: Running) -> None:
    done = forks.run(Path(__file__).parents[2] / "examples" / "client.py", running.url, folder=DEMO)
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    assert first.startswith("answer: ")
    assert second.startswith("failed: ")
    assert "missing.png" in second


def test_the_command_line_asks_a_server(running: Running) -> None:
    asked = ["tessera", "ask", "What is the value of Rome?", "-i", str(DEMO / "chart.png")]
    asked += ["--no-log", "--endpoint", running.url]
    done = forks.run(*asked)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == running.llm.chat(QUESTION).text
    assert done.stderr == ""
    both = forks.run(*asked, "--dtype", "float32")
    assert both.returncode == 2
    assert "--dtype and --endpoint exclude each other" in both.stderr
