from pathlib import Path

from evaluation_files import BAD, GOOD, write_evaluation


def _write_evaluations(cwd: Path, **tuned: list[str]) -> None:
    for name, answers in tuned.items():
        (cwd / name).mkdir()
        folder = write_evaluation(cwd / name, base=[BAD] * len(answers), tuned=answers)
        folder.rename(folder.parent / name)


def test_two_evaluations_are_compared_and_the_gate_passes_only_if_better(ok, cli, refused, cwd):
    _write_evaluations(cwd, one=[BAD] * 10, two=[GOOD] * 10)
    result = ok("compare", "one/evals/one", "two/evals/two")
    assert "Better. Whole contract: +100.0 points" in result.out
    assert "tuned of one" in result.out
    assert "valid JSON" in result.out
    document = ok("compare", "one/evals/one", "two/evals/two", "--json").json
    last = document["comparisons"][-1]
    assert (document["rows"], last["metric"], last["outcome"]) == (10, "contract", "better")
    ok("compare", "one/evals/one", "two/evals/two", "--gate")
    result = cli("compare", "two/evals/two", "one/evals/one", "--gate")
    assert result.code == 1
    assert "Gate failed: Worse." in result.err
    refused(("compare", "one/evals/one", "one/evals/one/report.json"), "Both sides are the same evaluation, one")


def test_incomparable_evaluations_are_bad_input(refused, cwd):
    _write_evaluations(cwd, one=[GOOD] * 4, two=[GOOD] * 5)
    refused(("compare", "one/evals/one", "two/evals/two"), "cannot be compared: the held-out rows")


def test_several_evaluations_are_compared_with_the_first(ok, cli, cwd):
    _write_evaluations(cwd, one=[BAD] * 12, two=[GOOD] * 12, three=[BAD] * 11 + [GOOD])
    names = ("one/evals/one", "two/evals/two", "three/evals/three")
    result = ok("compare", *names)
    first, second, third = result.out.splitlines()[-3:]
    assert first.split()[:5] == ["·", "tuned", "of", "one", "0.0%"]
    assert second.split()[:6] == ["✓", "tuned", "of", "two", "100.0%", "+100.0"]
    assert third.split()[:6] == ["·", "tuned", "of", "three", "8.3%", "+8.3"]
    items = cli("compare", *names, "--json").json["comparisons"]
    assert [item["outcome"] for item in items] == ["better", "cannot_tell"]
    assert items[0]["adjusted"] == 2 * items[0]["p"]
    assert "--gate compares two evaluations" in cli("compare", *names, "--gate").err
