"""The scorers against what the official programs print for the same replies, case by case."""

from __future__ import annotations

import random
import re

import pytest

from tessera.evals import choices, latex, levels, vqa
from tessera.evals.metrics import (
    anls,
    anls_as_published,
    bootstrap_interval,
    mcnemar,
    pass_at_k,
    relaxed_accuracy,
    relaxed_accuracy_as_published,
)

# Reply, counts of the ten answers, official accuracy, and the accuracy that always normalises.
VQA = [
    ("yes", {"yes": 10}, 1.0, 1.0),
    ("Yes", {"yes": 10}, 0.0, 1.0),
    ("yes.", {"yes": 10}, 0.0, 1.0),
    ("Yes.", {"yes": 9, "no": 1}, 1.0, 1.0),
    ("two", {"2": 9, "3": 1}, 1.0, 1.0),
    ("2", {"two": 9, "three": 1}, 1.0, 1.0),
    ("a dog", {"dog": 3, "cat": 7}, 0.9, 0.9),
    ("a dog", {"dog": 2, "cat": 8}, 0.6, 0.6),
    ("a dog", {"dog": 1, "cat": 9}, 0.3, 0.3),
    ("a dog", {"dog": 4, "cat": 6}, 1.0, 1.0),
    ("dont know", {"don't know": 5, "x": 5}, 1.0, 1.0),
    ("1,000", {"1000": 5, "x": 5}, 1.0, 1.0),
    ("10:30", {"10:30": 5, "x": 5}, 1.0, 1.0),
    ("3.5", {"3.5": 5, "x": 5}, 1.0, 1.0),
    ("u.s.", {"us": 5, "x": 5}, 1.0, 1.0),
    ("t-shirt", {"t shirt": 5, "x": 5}, 1.0, 1.0),
    ("red/white", {"red white": 5, "x": 5}, 1.0, 1.0),
    ("what?", {"what": 5, "x": 5}, 1.0, 1.0),
    ("no one", {"no 1": 5, "x": 5}, 1.0, 1.0),
    ("None", {"0": 5, "x": 5}, 1.0, 1.0),
]
VQA_FORMS = [
    ("Two dogs.", "2 dogs"),
    ("the U.S.", "us"),
    ("A man, standing", "man standing"),
    ("$5.00", "$5.00"),
    ("100%", "100%"),
    ("10:30", "10:30"),
    ("3.5 ft.", "3.5 ft"),
    ("(left)", "left"),
    ("dont", "don't"),
    ("zero one two three four five", "0 1 2 3 4 5"),
    ("six seven eight nine ten", "6 7 8 9 10"),
    ("none", "0"),
    ("couldnt've", "couldn't've"),
    ("somebody'd", "somebodyd"),
]
# Reply, answers, ANLS with threshold 0.5, and mistral-evals'.
ANLS = [
    ("paris", ["Paris"], 1, 1),
    ("pari", ["Paris"], 0.8, 0.8),
    ("par", ["Paris"], 0.6, 0.6),
    ("pa", ["Paris"], 0, 0.4),
    ("", ["Paris"], 0, 0),
    ("$1,234", ["1,234"], 0.8333, 0.8333),
    ("hello  world", ["Hello World"], 1, 1),
    ("abcd", ["abxx"], 0.5, 0.5),
    ("abc", ["abxxxx"], 0, 0.3333),
    ("paris.", ["Paris"], 0.8333, 1.0),
    ("12/05/2001", ["12-05-2001", "May 12"], 0.8, 0.8),
]
# Reply, answer, relaxed accuracy as Qwen and lmms-eval compute it, and as mistral-evals does.
RELAXED = [
    ("105", "100", 1, 1),
    ("95", "100", 1, 1),
    ("104", "100", 1, 1),
    ("105.1", "100", 0, 0),
    ("94.9", "100", 0, 0),
    ("-3", "3", 0, 0),
    ("0.5", "50%", 1, 1),
    ("50%", "0.5", 1, 1),
    ("2.1%", "2.2%", 1, 1),
    ("50", "50%", 0, 1),
    ("50%", "50", 0, 1),
    ("0", "0", 1, 1),
    ("0.0", "0", 0, 1),
    ("3,000", "3000", 0, 1),
    ("$3000", "3000", 0, 1),
    ('"Blue"', "Blue", 0, 1),
    ("yes.", "yes", 0, 0),
    ("Blue", "blue line", 0, 0),
    ("2019", "2010", 1, 1),
    ("1e3", "1000", 1, 1),
    ("Yes", "yes", 1, 1),
    ("N/A", "N/A", 1, 1),
]
# Reply, answer, and what levels 0 (the paper's), 2 and 3 (mistral-evals' two metrics) give; None: not known.
LEVELS = [
    ("Final Answer: 42.", "42", 1, 1, 1),
    ("**Final Answer:** 42", "42", 0, 1, 1),
    ("**Final Answer**: **B**", "B", 0, 1, 1),
    ("Answer: B. because", "B", 0, 1, 1),
    ("Final Answer:\n\n42", "42", None, 1, 1),
    ("Final Answer: $1,000", "1000", 1, 1, 1),
    ("Final Answer: A\nNo.\nFinal Answer: B", "B", 1, 1, 1),
    ("Final Answer: (C)", "C", 1, 1, 1),
    ("Final Answer: Cat", "C", 1, 1, 1),
    ("Final Answer: 50%", "0.5", 1, 1, 1),
    ("Final Answer: 1,234 units", "1234", 0, 0, 0),
    ("The answer is 42.", "42", 0, 0, 1),
    ("the value is 1,234", "1234", 0, 0, 1),
    ("it is blue.", "Blue", 0, 0, 1),
    ("", "42", 0, 0, 0),
    ("**C**", "C", 0, 0, None),
    ("Answer: C)", "C", 0, 1, None),
]
COLOURS = ["red apple", "green pear", "blue plum", "black grape"]
MMMU_CHOICES = [
    ("B", "B"),
    ("(B)", "B"),
    ("B.", "B"),
    ("The answer is B", "B"),
    ("The answer: B,", "B"),
    ("The answer is (B) not (C)", "C"),
    ("(A) is wrong, so (C)", "C"),
    ("I think A or D", "D"),
    ("Option D is right.", "D"),
    ("I would say it is the blue plum there", "C"),
    ("blue plum", None),
    ("b", None),
    ("**C**", None),
    ("Answer: C)", None),
    ("A: red apple", None),
]
MMMU_OPEN = [
    ("The answer is 42.", ["42"], True),
    ("x = 3,000", ["3000"], True),
    ("about 3.14159", ["3.14"], True),
    ("3.146", ["3.15"], True),
    ("So the result is Paris", ["Paris"], True),
    ("42 or 43", ["43"], True),
    ("1.0e3", ["1000"], True),
    ("$5", ["5"], True),
    ("7%", ["7"], True),
    ("-3", ["-3"], True),
    ("The value could be 10. Therefore 12.", ["12"], True),
    ("4", ["42"], False),
    ("It is 7.", ["8", "7"], True),
]
MATHVISTA_CHOICES = [
    ("(B) 8/11", ["3/11", "8/11"], "8/11"),
    ("B", ["3/11", "8/11"], "8/11"),
    ("8/12", ["3/11", "8/11"], "8/11"),
    ("b", ["3/11", "8/11"], "3/11"),
    ("", ["Yes", "No"], "No"),
]
MATHVISTA_VALUES = [
    ("14.0", "integer", None, "14"),
    ("14.7", "integer", None, "14"),
    ("14 apples", "integer", None, None),
    ("1,000", "integer", None, None),
    ("1.456", "float", 2, "1.46"),
    ("1.4", "float", 2, "1.4"),
    ("0.665", "float", 2, "0.67"),
    ("[2007, 2008]", "list", None, "[2007, 2008]"),
]
MATH_EQUAL = [
    (r"\frac12", r"\frac{1}{2}"),
    (r"\frac12", "1/2"),
    (r"\frac12", "0.5"),
    (r"\frac{1}{2}", "1/2"),
    (r"\frac{1}{2}", "0.5"),
    ("1/2", "0.5"),
    (".5", "0.5"),
    ("x=5", "5"),
    (r"\dfrac{1}{2}", r"\tfrac{1}{2}"),
    (r"5\%", "5"),
    (r"10\text{ cm}", "10"),
    (r"\sqrt2", r"\sqrt{2}"),
    (r"90^\circ", "90"),
    (r"\left(1,2\right)", "(1, 2)"),
    (r"\$5", "5"),
]
MATH_UNEQUAL = [("1,000", "1000"), ("2", "2.0"), ("3x+1", "1+3x"), ("abc=5", "5"), ("1/3", "0.333")]
MMLU_PRO = [
    ("The answer is (C).", "C"),
    ("the answer is C", "C"),
    ("Answer: C", None),
    ("The answer is: C", None),
    ("answer is c", None),
    ("answer is (K)", None),
    ("The answer is (B) ... the answer is (D)", "B"),
    ("The best answer is I think (A)", "I"),
]
PASS_AT_K = [
    (1, 1, 1, 1.0),
    (1, 0, 1, 0.0),
    (10, 3, 1, 0.3),
    (10, 3, 5, 0.916667),
    (5, 2, 4, 1.0),
    (100, 5, 10, 0.416248),
    (200, 1, 100, 0.5),
]


@pytest.mark.parametrize(("reply", "counts", "official", "normalised"), VQA)
def test_vqa_accuracy(reply: str, counts: dict[str, int], official: float, normalised: float) -> None:
    answers = [answer for answer, count in counts.items() for _ in range(count)]
    assert vqa.vqa_accuracy(reply, answers) == pytest.approx(official)
    assert vqa.vqa_accuracy_normalised(reply, answers) == pytest.approx(normalised)


@pytest.mark.parametrize(("text", "form"), VQA_FORMS)
def test_vqa_normal_form(text: str, form: str) -> None:
    assert vqa.normal_form(text) == form


@pytest.mark.parametrize(("reply", "answers", "official", "published"), ANLS)
def test_anls(reply: str, answers: list[str], official: float, published: float) -> None:
    assert anls(reply, answers) == pytest.approx(official, abs=5e-5)
    assert anls_as_published(reply, answers) == pytest.approx(published, abs=5e-5)


@pytest.mark.parametrize(("reply", "answer", "plain", "published"), RELAXED)
def test_relaxed_accuracy(reply: str, answer: str, plain: int, published: int) -> None:
    assert relaxed_accuracy(reply, answer) == plain
    assert relaxed_accuracy_as_published(reply, [answer]) == published


@pytest.mark.parametrize(("reply", "answer", "strict", "explicit", "anywhere"), LEVELS)
def test_levels(reply: str, answer: str, strict: int | None, explicit: int, anywhere: int | None) -> None:
    right = levels.right_by_level(reply, [answer])
    assert right[2] == explicit
    assert strict is None or right[0] == strict
    assert anywhere is None or right[3] == anywhere


@pytest.mark.parametrize(
    ("reply", "answer", "level"),
    [
        ("**Final Answer:** 42", "42", 2),
        ("**Final Answer**: **B**", "B", 2),
        ("Answer: B. because", "B", 1),
        ("The answer is 42.", "42", 3),
        ("the value is 1,234", "1234", 3),
        ("it is blue.", "Blue", 3),
    ],
)
def test_the_first_level_that_takes_a_reply(reply: str, answer: str, level: int) -> None:
    assert levels.right_by_level(reply, [answer]).index(True) == level


@pytest.mark.parametrize(("reply", "letter"), MMMU_CHOICES)
def test_mmmu_choice(reply: str, letter: str | None) -> None:
    assert choices.mmmu_choice(reply, COLOURS) == letter


@pytest.mark.parametrize(("reply", "answers", "right"), MMMU_OPEN)
def test_mmmu_open(reply: str, answers: list[str], right: bool) -> None:
    assert choices.is_mmmu_open_right(reply, answers) is right


@pytest.mark.parametrize(("extract", "options", "option"), MATHVISTA_CHOICES)
def test_mathvista_choice(extract: str, options: list[str], option: str) -> None:
    assert choices.mathvista_choice(extract, options) == option


@pytest.mark.parametrize(("extract", "kind", "precision", "value"), MATHVISTA_VALUES)
def test_mathvista_value(extract: str, kind: str, precision: float | None, value: str | None) -> None:
    assert choices.mathvista_value(extract, kind, precision) == value


@pytest.mark.parametrize(("one", "other"), MATH_EQUAL)
def test_math_equal(one: str, other: str) -> None:
    assert latex.is_equivalent(one, other)
    assert latex.is_equivalent(other, one)


@pytest.mark.parametrize(("one", "other"), MATH_UNEQUAL)
def test_math_unequal(one: str, other: str) -> None:
    assert not latex.is_equivalent(one, other)


@pytest.mark.parametrize(
    ("reply", "value"),
    [
        (r"So \boxed{1} and then \boxed{\frac{1}{2}}.", r"\frac{1}{2}"),
        ("Final Answer: The final answer is $[2,5)$. I hope it is correct.", "[2,5)"),
        (r"The final answer is $\boxed{7}$.", "7"),
        ("no box here", None),
        (r"cut off in \boxed{\frac{1}", None),
    ],
)
def test_math_final_value(reply: str, value: str | None) -> None:
    assert latex.final_value(reply) == value


@pytest.mark.parametrize(("reply", "letter"), MMLU_PRO)
def test_mmlu_pro_choice(reply: str, letter: str | None) -> None:
    assert choices.mmlu_pro_choice(reply) == letter


@pytest.mark.parametrize(("count", "right", "k", "chance"), PASS_AT_K)
def test_pass_at_k(count: int, right: int, k: int, chance: float) -> None:
    assert pass_at_k(count, right, k) == pytest.approx(chance, abs=1e-6)


def test_mcnemar_is_the_exact_binomial_test() -> None:
    assert mcnemar(0, 0) == 1.0
    assert mcnemar(0, 6) == pytest.approx(2 / 64)
    assert mcnemar(10, 10) == 1.0
    assert mcnemar(3, 12) == pytest.approx(0.03515625)  # scipy.stats.binomtest(3, 15).pvalue


def test_the_bootstrap_draws_whole_clusters() -> None:
    scores = [0.0, 1.0] * 50
    alone = bootstrap_interval(scores, [str(number) for number in range(100)])
    assert alone == pytest.approx((0.402, 0.598), abs=0.02)  # the normal interval of a half of 100
    pairs = bootstrap_interval(scores, [str(number // 2) for number in range(100)])
    assert pairs == (0.5, 0.5)  # every cluster has one of each


@pytest.mark.parametrize("fill", [" ", "\n", "1", "*"])
def test_a_reply_without_end_is_read_in_time(fill: str) -> None:
    """Expressions that go back over what they have read would need hours or years for these."""
    runaway = f"Final Answer: 4{fill * 60_000}x\ny"
    assert levels.right_by_level(runaway, ["7"])[:3] == [False, False, False]
    assert isinstance(choices.is_mmmu_open_right(runaway, ["7"]), bool)


def test_the_end_of_a_reply_is_what_the_expression_for_it_says() -> None:
    expression, dice = re.compile(r"Final Answer:\s*([^\n]+?)\s*\Z"), random.Random(1)
    parts = ["Final Answer:", " ", "\n", "a", "\t", "answer:", "\u2028"]
    found = 0
    for _ in range(3000):
        reply = "".join(dice.choices(parts, k=dice.randint(0, 7)))
        match = expression.search(reply)
        expected = match[1].strip() if match and "answer:" not in match[1].lower() else ""
        assert levels.final_answer(reply, 0) == expected, reply
        found += expected != ""
    assert found > 50
