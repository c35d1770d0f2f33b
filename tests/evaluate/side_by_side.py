"""A comparison of two models as `cpuft eval compare` writes it, whose answers a test makes up."""

from collections.abc import Mapping, Sequence
from typing import Any

from cpuft import demo
from cpuft.evaluate.benchmark import Case, read_cases
from cpuft.evaluate.comparison import difference, mean_of
from cpuft.roles import find_role

ROLE = find_role("ba")
BASE, TUNED = "qwen2.5:3b-instruct", "qwen25-ba-finetuned:v1"
BIDI = "\N{RIGHT-TO-LEFT OVERRIDE}"
# What must do nothing but be read.
HOSTILE = (
    "<script>window.hacked = 1; document.title = 'hacked'</script>",
    "<img src=x onerror=\"window.hacked = 1\"><svg onload='window.hacked = 1'>",
    "</script><script>window.hacked = 1</script><!-- <script> -->",
    "title: \"quotes\" 'single' `back` \\u003c \\\\ ${window.hacked = 1} {{ 7 * 7 }}\nfirst: &lt;b&gt; &amp; </pre>",
    f"title: \x00 bell \x07 escape \x1b[31mred {BIDI}gnp.exe \u2066 line\u2028end\u2029\x85 half \ud800 bom \ufeff",
    "title: " + "x" * 20_000,
    "title: \u05e9\u05dc\u05d5\u05dd \u0639\u0631\u0628\u064a 12 (abc)\n" * 3,
    "javascript:window.hacked=1\n" * 50,
    "",
)


def answers(cases: Sequence[Case], texts: Sequence[str]) -> list[dict[str, Any]]:
    """The answers of a model, scored."""
    rows = []
    for case, text in zip(cases, texts, strict=True):
        score = ROLE.metric(text, case.inputs)
        parts = {name: part.value for name, part in score.parts.items()}
        facts = {
            "score": score.total,
            "parts": parts,
            "faults": score.faults,
            "tokens": len(text) // 4,
            "finished": True,
        }
        rows.append({"inputs": dict(case.inputs), **facts, "answer": text})
    return rows


def model(rows: Sequence[Mapping[str, Any]], digest: str) -> dict[str, Any]:
    """What a result says of a model."""
    scores = [row["score"] for row in rows]
    shares = {"yaml_valid": 0.9, "schema_valid": 0.8, "unfinished": 0, "perplexity": None}
    mean = mean_of(scores)
    facts = {"avg_score": mean.value, "interval": mean.facts(), "n_examples": len(rows), **shares}
    return {**facts, "digest": digest, "adapter_digest": None, "answers": list(rows)}


def comparison(cases: Sequence[Case], base: Sequence[str], tuned: Sequence[str]) -> dict[str, Any]:
    """The whole result."""
    before, after = answers(cases, base), answers(cases, tuned)
    gain = difference([row["score"] for row in before], [row["score"] for row in after])
    made_by = {
        "date": "2026-11-30T12:00:00Z",
        "metric": "ba",
        "role": {"name": "ba", "digest": "0"},
        "server": "llama.cpp",
    }
    return {
        BASE: model(before, "aaaaaaaaaaaa"),
        TUNED: model(after, "bbbbbbbbbbbb"),
        "comparison": {"base": BASE, "tuned": TUNED, "difference": gain.facts(), "n_examples": len(cases)},
        "made_by": made_by,
    }


def usual() -> dict[str, Any]:
    """Six samples of the bundled test set: three better, two worse, one the same."""
    cases = read_cases(demo.TEST, ROLE)[:6]
    good = [case.reference for case in cases]
    bad = [
        text.replace("FR00", "R-").replace("priority: High", "priority: urgent").partition("constraints:")[0]
        for text in good
    ]
    base = [*bad[:3], *good[3:]]
    tuned = [*good[:3], *bad[3:5], good[5]]
    return comparison(cases, base, tuned)


def hostile() -> dict[str, Any]:
    """A comparison in which everything that is no number tries to be more than text."""
    texts = list(HOSTILE)
    cases = [Case({"concept": text or "<b>nothing</b>"}, (), "") for text in texts]
    found = comparison(cases, texts, texts[::-1])
    for name in (BASE, TUNED):
        for row in found[name]["answers"]:
            row["faults"] = [row["answer"], *row["faults"]]
            row["parts"] = {**row["parts"], "<img src=x onerror=window.hacked=1>": 0.5}
    evil = "</title><script>window.hacked = 1</script>"
    found[evil] = found.pop(TUNED)
    found["comparison"]["tuned"] = evil
    return found
