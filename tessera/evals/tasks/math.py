"""MATH: competition problems, after Minerva's four worked examples."""

from __future__ import annotations

from collections.abc import Sequence

from tessera.errors import UsageError
from tessera.evals.latex import boxed, final_value, is_equivalent
from tessera.evals.rows import Row
from tessera.evals.task import Question, Shots, Task, Verdict, user
from tessera.sampling import SamplingParams

EXAMPLES = r"""Problem:
Find the domain of the expression  $\frac{\sqrt{x-2}}{\sqrt{5-x}}$.}

Solution:
The expressions inside each square root must be non-negative. Therefore, $x-2 \ge 0$, so $x\ge2$, and $5 - x \ge 0$, %%
so $x \le 5$. Also, the denominator cannot be equal to zero, so $5-x>0$, which gives $x<5$. Therefore, the domain of %%
the expression is $\boxed{[2,5)}$.
Final Answer: The final answer is $[2,5)$. I hope it is correct.

Problem:
If $\det \mathbf{A} = 2$ and $\det \mathbf{B} = 12,$ then find $\det (\mathbf{A} \mathbf{B}).$

Solution:
We have that $\det (\mathbf{A} \mathbf{B}) = (\det \mathbf{A})(\det \mathbf{B}) = (2)(12) = \boxed{24}.$
Final Answer: The final answer is $24$. I hope it is correct.

Problem:
Terrell usually lifts two 20-pound weights 12 times. If he uses two 15-pound weights instead, how many times must %%
Terrell lift them in order to lift the same total weight?

Solution:
If Terrell lifts two 20-pound weights 12 times, he lifts a total of $2\cdot 12\cdot20=480$ pounds of weight.  If he %%
lifts two 15-pound weights instead for $n$ times, he will lift a total of $2\cdot15\cdot n=30n$ pounds of weight.  %%
Equating this to 480 pounds, we can solve for $n$:
\begin{align*}
30n&=480\\
\Rightarrow\qquad n&=480/30=\boxed{16}
\end{align*}
Final Answer: The final answer is $16$. I hope it is correct.

Problem:
If the system of equations

\begin{align*}
6x-4y&=a,\\
6y-9x &=b.
\end{align*}has a solution $(x, y)$ where $x$ and $y$ are both nonzero,
find $\frac{a}{b},$ assuming $b$ is nonzero.

Solution:
If we multiply the first equation by $-\frac{3}{2}$, we obtain

$$6y-9x=-\frac{3}{2}a.$$Since we also know that $6y-9x=b$, we have

$$-\frac{3}{2}a=b\Rightarrow\frac{a}{b}=\boxed{-\frac{2}{3}}.$$
Final Answer: The final answer is $-\frac{2}{3}$. I hope it is correct.

""".replace("%%\n", "")
PARAMS = SamplingParams(temperature=0.0, max_tokens=1024, stop=("Problem:",))


def _questions(row: Row, shots: Shots) -> Sequence[Question]:
    answer = row.get("answer") or boxed(row.text("solution"))
    if not isinstance(answer, str):
        raise UsageError(f"{row.place}: the solution has no \\boxed answer.")
    return [
        Question(
            id=str(row.get("unique_id", "")),
            messages=user(f"{EXAMPLES}Problem:\n{row.text('problem')}\n\nSolution:"),
            params=PARAMS,
            answer=answer,
            groups={"type": str(row.get("type", row.get("subject", "unknown"))), "level": str(row.get("level", "?"))},
        )
    ]


def _score(question: Question, reply: str) -> Verdict:
    value = final_value(reply)
    is_right = value is not None and is_equivalent(value, question.answer)
    return Verdict({"accuracy": float(is_right)}, value)


TASK = Task(
    name="math",
    title="MATH",
    split="test",
    repositories=("EleutherAI/hendrycks_math",),
    prompt=EXAMPLES,
    protocol="four worked examples in one turn, one greedy solution (maj@1), at most 1024 tokens",
    scores={"accuracy": "the last answer equals the solution's, both in MATH's normal form of LaTeX"},
    questions=_questions,
    score=_score,
    paper=48.1,
)
