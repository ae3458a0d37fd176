"""Runs of benchmarks over small files in the published layouts: what is asked, resumed, judged, reported, compared."""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image as PILImage

from tessera.chat import Conversation
from tessera.errors import EngineDeadError, ReplyError, TesseraError, UsageError
from tessera.evals.answers import Answer, Summary
from tessera.evals.compare import compare
from tessera.evals.report import report
from tessera.evals.rows import open_rows
from tessera.evals.run import Plan, answers_of, evaluate
from tessera.evals.task import Task
from tessera.evals.tasks import task_named
from tessera.evals.tasks.humaneval import program_of, with_runner
from tessera.messages import Message
from tessera.sampling import SamplingParams
from tests.evals.stub import Stub


def png(shade: int = 200) -> bytes:
    file = io.BytesIO()
    PILImage.new("RGB", (24, 16), (shade, 40, 40)).save(file, "PNG")
    return file.getvalue()


def struct(shade: int = 200) -> dict[str, Any]:
    return {"bytes": png(shade), "path": None}


def write(path: Path, rows: Sequence[Mapping[str, Any]], group: int = 2) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(list(rows)), path, row_group_size=group)
    return path


def chartqa(folder: Path, count: int = 6) -> Path:
    rows = [
        {
            "type": ("human_test", "augmented_test")[number % 2],
            "question": f"What is bar {number}?",
            "answer": str(10 + number),
            "image": png(number // 2),
        }
        for number in range(count)
    ]
    write(folder / "data" / "test-00000-of-00001.parquet", rows)
    write(folder / "data" / "train-00000-of-00001.parquet", rows[:1])
    return folder


def text_of(conversation: Conversation) -> str:
    last = conversation[-1]
    assert isinstance(last, Message)
    return "".join(part for part in last.content if isinstance(part, str))


def run(task: Task, data: Path, out: Path, model: Stub, **given: Any) -> Summary:
    plan = Plan(data=data, model="stub", model_digest="1", limit=given.pop("limit", None), seed=given.pop("seed", 0))
    return evaluate(task, plan, out, lambda: model, **given)


def score_of(summary: Summary, name: str) -> float:
    return next(score.value for score in summary.scores if score.name == name)


def bars(conversation: Conversation, params: SamplingParams) -> str:
    """Answers four of six bars: one by each level."""
    number = int(text_of(conversation).split("bar ")[1].split("?")[0])
    value = 10 + number
    return (
        f"Final Answer: {value}",
        f"**Final Answer:** {value}",
        f"Answer: {value}\nBecause",
        f"The value is {value} here.",
        "Final Answer: 99",
        "I'm sorry, I can't read it.",
    )[number]


def test_chartqa_by_level_kind_and_flag(tmp_path: Path) -> None:
    model = Stub(bars)
    summary = run(task_named("chartqa"), chartqa(tmp_path / "data"), tmp_path / "run", model)
    right = {score.name: round(score.value * 6 / 100) for score in summary.scores}
    assert right == {"level 0": 1, "level 1": 2, "level 2": 3, "level 3": 4, "relaxed accuracy": 3}
    assert [score.name for score in summary.groups["questions by"]] == ["augmented", "human"]
    assert summary.flags == {"unparsed": 2, "cut": 0, "refused": 1, "failed": 0}
    conversation, params = model.asked[0]
    assert (params.max_tokens, params.temperature) == (2048, 0.0)
    assert text_of(conversation).startswith("What is bar 0?\nAnalyze the image and question carefully")
    assert text_of(conversation).endswith("Remember, to end your answer with Final Answer: <answer>.")
    assert len(model.asked) == 6  # the test split only


def test_a_run_goes_on_where_it_stopped(tmp_path: Path) -> None:
    data, asked = chartqa(tmp_path / "data"), 0

    def dying(conversation: Conversation, params: SamplingParams) -> str | TesseraError:
        nonlocal asked
        asked += 1
        return EngineDeadError("gone") if asked > 4 else bars(conversation, params)

    with pytest.raises(EngineDeadError):
        run(task_named("chartqa"), data, tmp_path / "run", Stub(dying))
    again = Stub(bars)
    whole = run(task_named("chartqa"), data, tmp_path / "run", again)
    assert len(again.asked) == 2
    assert whole == run(task_named("chartqa"), data, tmp_path / "other", Stub(bars))
    nothing = Stub(lambda conversation, params: pytest.fail("asked again"))
    assert run(task_named("chartqa"), data, tmp_path / "run", nothing) == whole


def test_a_run_of_other_data_or_another_model_is_not_gone_on_with(tmp_path: Path) -> None:
    data = chartqa(tmp_path / "data")
    run(task_named("chartqa"), data, tmp_path / "run", Stub(bars))
    write(data / "data" / "test-00000-of-00001.parquet", [{"question": "?", "answer": "1", "image": png()}])
    with pytest.raises(UsageError, match="data_digest"):
        run(task_named("chartqa"), data, tmp_path / "run", Stub(bars))


def test_failed_questions_count_as_wrong_and_are_asked_again_on_request(tmp_path: Path) -> None:
    data = chartqa(tmp_path / "data")
    broken = Stub(lambda conversation, params: ReplyError("cut"))
    summary = run(task_named("chartqa"), data, tmp_path / "run", broken)
    assert (summary.flags["failed"], summary.count, score_of(summary, "level 0")) == (6, 6, 0.0)
    model = Stub(bars)
    summary = run(task_named("chartqa"), data, tmp_path / "run", model, retry_failed=True)
    assert (summary.flags["failed"], len(model.asked)) == (0, 6)


def test_a_limit_draws_rows_by_the_seed(tmp_path: Path) -> None:
    data = chartqa(tmp_path / "data")
    drawn = []
    for seed, name in ((1, "a"), (1, "b"), (2, "c")):
        run(task_named("chartqa"), data, tmp_path / name, Stub(bars), limit=3, seed=seed)
        drawn.append([answer.row for answer in answers_of(tmp_path / name)])
    assert drawn[0] == drawn[1] != drawn[2]
    assert all(len(rows) == 3 for rows in drawn)


def mmmu(folder: Path) -> Path:
    common = {"img_type": "", "subfield": "", "explanation": "", "image_3": None}
    rows = [
        {"id": "validation_Art_1", "question": "Is it <image 1> or <image 2>?", "options": "['red', '<image 2>']",
         "answer": "B", "question_type": "multiple-choice", "image_1": struct(1), "image_2": struct(2),
         "topic_difficulty": "Easy", **common},
        {"id": "validation_Art_Theory_12", "question": "How many in <image 1>", "options": "[]",
         "answer": "['42', 'forty two']", "question_type": "open", "image_1": struct(3), "image_2": None,
         "topic_difficulty": "Hard", **common},
    ]  # fmt: skip
    write(folder / "Art" / "validation-00000-of-00001.parquet", rows)
    write(folder / "Art" / "dev-00000-of-00001.parquet", rows)
    return folder


def test_mmmu_puts_images_in_their_places(tmp_path: Path) -> None:
    model = Stub(lambda conversation, params: "The count is 42.\nFinal Answer: B")
    summary = run(task_named("mmmu"), mmmu(tmp_path / "data"), tmp_path / "run", model)
    first, second = (conversation[-1] for conversation, _ in model.asked)
    assert isinstance(first, Message)
    assert isinstance(second, Message)
    kinds = [part if isinstance(part, str) else "IMAGE" for part in first.content]
    assert kinds[:6] == ["Is it ", "IMAGE", " or ", "IMAGE", "?\nA. red\nB. ", "IMAGE"]
    assert kinds[6].startswith("Analyze the image")
    assert [score.name for score in summary.groups["subject"]] == ["Art", "Art_Theory"]
    assert {score.name: score.value for score in summary.scores}["level 0"] == 50.0
    assert {score.name: score.value for score in summary.scores}["official"] == 100.0  # it reads the whole reply


def test_mathvista_choices_become_letters_and_numbers_keep_their_form(tmp_path: Path) -> None:
    common = {
        "question": "q",
        "image": "images/1.jpg",
        "decoded_image": struct(),
        "unit": None,
        "metadata": {"task": "t"},
    }
    rows: list[dict[str, Any]] = [
        {"pid": "1", "choices": ["3", "7"], "precision": None, "answer": "7", "question_type": "multi_choice",
         "answer_type": "text", "query": "Choices:\n(A) 3\n(B) 7", **common},
        {"pid": "2", "choices": None, "precision": 1.0, "answer": "1.2", "question_type": "free_form",
         "answer_type": "float", "query": "Value?", **common},
    ]  # fmt: skip
    write(tmp_path / "data" / "testmini-00000-of-00001.parquet", rows)
    replies = iter(["Final Answer: B", "Final Answer: 1.23"])
    model = Stub(lambda conversation, params: next(replies))
    summary = run(task_named("mathvista"), tmp_path / "data", tmp_path / "run", model)
    assert (score_of(summary, "level 0"), score_of(summary, "official")) == (100.0, 100.0)
    assert text_of(model.asked[0][0]).startswith("Choices:\n(A) 3\n(B) 7\nAnalyze")


def test_docvqa_takes_its_own_config_and_scores_by_document(tmp_path: Path) -> None:
    rows = [
        {"questionId": str(number), "question": "Name?", "question_types": ["form"], "image": struct(),
         "docId": number // 2, "answers": ["Paris", "City of Paris"], "data_split": "val"}
        for number in range(4)
    ]  # fmt: skip
    write(tmp_path / "data" / "DocVQA" / "validation-00000-of-00001.parquet", rows)
    write(tmp_path / "data" / "InfographicVQA" / "validation-00000-of-00001.parquet", rows)
    replies = iter(["pari", "Paris", "London", "par"])
    model = Stub(lambda conversation, params: next(replies))
    summary = run(task_named("docvqa"), tmp_path / "data", tmp_path / "run", model)
    assert summary.count == 4
    assert score_of(summary, "ANLS") == pytest.approx(100 * (0.8 + 1 + 0 + 0.6) / 4)
    assert model.asked[0][1].max_tokens == 10
    assert text_of(model.asked[0][0]) == "Name?\nAnswer the question using a single word or phrase."


def test_vqav2_reads_ten_people(tmp_path: Path) -> None:
    people = [{"answer": "yes" if number < 9 else "no", "answer_id": number} for number in range(10)]
    row = {
        "question": "Is it?",
        "question_id": 1,
        "image_id": 5,
        "image": struct(),
        "answer_type": "yes/no",
        "answers": people,
    }
    write(tmp_path / "data" / "validation-00000-of-00001.parquet", [row])
    summary = run(task_named("vqav2"), tmp_path / "data", tmp_path / "run", Stub(lambda conversation, params: "Yes."))
    assert score_of(summary, "official") == 100.0


def test_mmlu_shows_five_examples_and_takes_one_of_four_letters(tmp_path: Path) -> None:
    def row(number: int, subject: str) -> dict[str, Any]:
        return {"question": f"Q{number}", "subject": subject, "choices": ["w", "x", "y", "z"], "answer": number % 4}

    write(tmp_path / "data" / "all" / "test-00000-of-00001.parquet", [row(1, "high_school_physics")])
    write(tmp_path / "data" / "physics" / "test-00000-of-00001.parquet", [row(1, "physics")])
    shots = [row(number, "high_school_physics") for number in range(7)] + [row(9, "law")]
    write(tmp_path / "data" / "all" / "dev-00000-of-00001.parquet", shots)
    model = Stub(lambda conversation, params: "B")
    summary = run(task_named("mmlu"), tmp_path / "data", tmp_path / "run", model)
    assert (summary.count, score_of(summary, "accuracy")) == (1, 100.0)
    text = text_of(model.asked[0][0])
    assert text.startswith(
        "The following are multiple choice questions (with answers) about high school physics.\n\nQ0\nA. w\n"
    )
    assert text.count("Answer:") == 6
    assert "Q5" not in text
    assert text.endswith("Q1\nA. w\nB. x\nC. y\nD. z\nAnswer:")
    assert model.asked[0][1].grammar is not None


def test_mmlu_without_its_examples_says_so(tmp_path: Path) -> None:
    row = {"question": "Q", "subject": "law", "choices": ["w", "x", "y", "z"], "answer": 0}
    write(tmp_path / "data" / "test-00000-of-00001.parquet", [row])
    with pytest.raises(UsageError, match="'dev'"):
        run(task_named("mmlu"), tmp_path / "data", tmp_path / "run", Stub(bars))


def test_mmlu_pro_shows_worked_examples(tmp_path: Path) -> None:
    row = {
        "question_id": 1,
        "question": "1+1?",
        "options": ["1", "2"],
        "answer": "B",
        "category": "math",
        "cot_content": "",
    }
    shot = {**row, "question": "1+2?", "cot_content": "A: Let's think step by step. The answer is (A)."}
    write(tmp_path / "data" / "test-00000-of-00001.parquet", [row])
    write(tmp_path / "data" / "validation-00000-of-00001.parquet", [shot])
    model = Stub(lambda conversation, params: "So the answer is (B).")
    summary = run(task_named("mmlu-pro"), tmp_path / "data", tmp_path / "run", model)
    assert score_of(summary, "accuracy") == 100.0
    assert "Answer: Let's think step by step. The answer is (A)." in text_of(model.asked[0][0])


def test_math_takes_the_last_box(tmp_path: Path) -> None:
    row = {"problem": "1/2+0?", "level": "Level 1", "type": "Algebra", "solution": r"It is $\boxed{\frac{1}{2}}$."}
    write(tmp_path / "data" / "algebra" / "test-00000-of-00001.parquet", [row])
    model = Stub(lambda conversation, params: r"$\boxed{0.5}$")
    summary = run(task_named("math"), tmp_path / "data", tmp_path / "run", model)
    assert score_of(summary, "accuracy") == 100.0
    text = text_of(model.asked[0][0])
    assert text.count("Problem:\n") == 5
    assert "a,\\\\\n6y-9x &=b.\n\\end{align*}has a solution" in text
    assert "%%" not in text


PROBLEM = {
    "task_id": "HumanEval/0",
    "prompt": 'from typing import List\n\n\ndef total(values: List[int]) -> int:\n    """Sum."""\n',
    "entry_point": "total",
    "canonical_solution": "    return sum(values)\n",
    "test": "def check(candidate):\n    assert candidate([1, 2]) == 3\n",
}


@pytest.mark.parametrize(
    ("reply", "passes"),
    [
        ("```python\ndef total(values: List[int]) -> int:\n    return sum(values)\n```", True),
        ("Here:\n```\n    return sum(values)\n```", True),
        ("    return sum(values)", True),
        ("```python\ndef total(values):\n    return 0\n```", False),
        ("```python\nimport sys\nsys.exit(0)\n```", False),
        ("I cannot.", False),
    ],
)
def test_humaneval_runs_what_was_written(tmp_path: Path, reply: str, passes: bool) -> None:
    with gzip.open(tmp_path / "HumanEval.jsonl.gz", "wt") as file:
        file.write(json.dumps(PROBLEM) + "\n")
    task = with_runner("unsafe")
    summary = run(task, tmp_path / "HumanEval.jsonl.gz", tmp_path / "run", Stub(lambda conversation, params: reply))
    assert score_of(summary, "pass@1") == 100.0 * passes


def test_a_humaneval_program_is_the_problem_its_solution_and_its_tests() -> None:
    from tessera.evals.rows import Row

    question = task_named("humaneval").questions(Row(PROBLEM, Path("x"), "x, row 1"), ())[0]
    program, code = program_of(question, PROBLEM["canonical_solution"])
    assert program.startswith(PROBLEM["prompt"] + PROBLEM["canonical_solution"])
    assert program.endswith("check(total)\n")
    assert code is None  # bare text: nothing says that it is code


def conversations(folder: Path) -> Path:
    turns = [
        {"role": "user", "content": [{"type": "image", "image": None}, {"type": "text", "text": "Which number?"}]},
        {"role": "assistant", "content": "Five."},
        {"role": "user", "content": "Twice that?"},
        {"role": "assistant", "content": "Ten."},
    ]
    write(
        folder / "eval-00000-of-00001.parquet",
        [{"image": struct(), "conversation": json.dumps(turns), "category": "charts"}],
    )
    return folder


def test_mm_mt_bench_asks_every_turn_after_the_references_and_is_judged(tmp_path: Path) -> None:
    replies = iter(["Six.", "Twelve."])
    model, ratings = Stub(lambda conversation, params: next(replies)), iter(["Bad. [[2]]", "no rating"])
    judge = Stub(lambda conversation, params: next(ratings))
    summary = run(
        task_named("mm-mt-bench"), conversations(tmp_path / "data"), tmp_path / "run", model, open_judge=lambda: judge
    )
    assert [len(conversation) for conversation, _ in model.asked] == [1, 3]
    assert score_of(summary, "rating") == 1.0  # 2 and a reply without a rating
    assert summary.flags["unparsed"] == 1
    seen = text_of(judge.asked[1][0])
    assert seen == (
        "<|The Start of Conversation with User|>\n\n### User:\nWhich number?\n\n### Reference answer:\nFive.\n\n"
        "### User:\nTwice that?\n\n### Reference answer:\nTen.\n\n\n\n### Assistant's answer:\nTwelve.\n\n"
        "<|The End of Conversation with User|>\n\n\n"
    )
    last = judge.asked[1][0][-1]
    assert isinstance(last, Message)
    assert len(last.images) == 1
    first = next(answers_of(tmp_path / "run"))
    assert (first.parsed, first.judgement) == ("2", "Bad. [[2]]")


def judge_that_ends(count: int) -> Stub:
    ratings = iter(["[[8]]"] * count)
    return Stub(lambda conversation, params: next(ratings, None) or EngineDeadError("gone"))


def test_what_waits_for_the_judge_is_no_answer_yet(tmp_path: Path) -> None:
    """Its points are 0 until then, and a comparison would show two models as equally bad."""
    task, data = task_named("mm-mt-bench"), conversations(tmp_path / "data")
    for count, name in enumerate(("none", "one")):
        given = partial(judge_that_ends, count)
        with pytest.raises(EngineDeadError):
            run(task, data, tmp_path / name, Stub(lambda conversation, params: "5"), open_judge=given)
    with pytest.raises(UsageError, match="none has no answers yet"):
        compare(tmp_path / "one", tmp_path / "none")
    assert [answer.scores for answer in answers_of(tmp_path / "one")] == [{"rating": 8.0}]
    summary = run(task, data, tmp_path / "one", Stub(bars), open_judge=lambda: Stub(lambda *_: "[[2]]"))
    assert (summary.count, score_of(summary, "rating")) == (2, 5.0)


def test_a_judged_task_needs_its_judge(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--judge-endpoint"):
        run(task_named("mm-mt-bench"), conversations(tmp_path / "data"), tmp_path / "run", Stub(bars))


def test_rows_of_a_folder_without_the_split_name_the_splits(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="it has test, train; choose with --split"):
        open_rows(chartqa(tmp_path), "validation")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="holds no"):
        open_rows(tmp_path / "empty", "test")


def test_a_damaged_parquet_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "test-0.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(UsageError, match=r"test-0\.parquet is no Parquet file"):
        open_rows(tmp_path, "test")


def better(conversation: Conversation, params: SamplingParams) -> str:
    number = int(text_of(conversation).split("bar ")[1].split("?")[0])
    return f"<b>Final Answer: {10 + number}" if number else "Final Answer: 99"


def test_two_runs_are_compared_on_the_same_questions(tmp_path: Path) -> None:
    data = chartqa(tmp_path / "data")
    run(task_named("chartqa"), data, tmp_path / "before", Stub(bars))
    run(task_named("chartqa"), data, tmp_path / "after", Stub(better))
    found = compare(tmp_path / "before", tmp_path / "after")
    assert (len(found.gained), len(found.lost), found.count) == (5, 1, 6)
    assert found.p == pytest.approx(2 * 7 / 64)
    assert found.difference == pytest.approx(100 * 4 / 6)
    assert not found.is_significant
    assert not found.notes
    (note,) = compare(tmp_path / "before", tmp_path / "before").notes
    assert "up to 39%" in note  # Wilson's bound for 0 of 6: z^2 / (6 + z^2)
    write(data / "data" / "test-00000-of-00001.parquet", [{"question": "bar 0?", "answer": "1", "image": png()}])
    run(task_named("chartqa"), data, tmp_path / "other", Stub(bars))
    with pytest.raises(UsageError, match="data_digest"):
        compare(tmp_path / "before", tmp_path / "other")


def test_the_report_is_one_file_that_escapes_what_models_say(tmp_path: Path) -> None:
    data = chartqa(tmp_path / "data")
    run(task_named("chartqa"), data, tmp_path / "before", Stub(bars))
    run(task_named("chartqa"), data, tmp_path / "after", Stub(better))
    page = report([tmp_path / "before", tmp_path / "after"])
    assert page.count("<figure") == 6  # every question was wrong in one of them
    assert page.count("data:image/webp;base64,") == 6
    assert "&lt;b&gt;Final Answer: 11" in page
    assert "<b>Final Answer" not in page
    assert "McNemar" in page
    assert "http" not in page.replace("http-equiv", "")
    assert "81.8" in page
    few = report([tmp_path / "before"], shown=2)
    assert few.count("<figure") <= 2
    moved = report([tmp_path / "before"], data=tmp_path / "nowhere")
    assert "Without images" in moved


def test_an_answer_survives_the_journal() -> None:
    answer = Answer(id="é", row=3, answer=["x"], scores={"level 0": 1.0}, flags=["cut"], groups={"a": "b"})
    assert Answer.from_json(answer.to_json()) == answer
