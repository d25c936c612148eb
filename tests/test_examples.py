"""The examples run in a small size."""

from __future__ import annotations

import csv
import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np

EXAMPLES = Path(__file__).parent.parent / "examples"


def reviews(count: int) -> list[str]:
    return [
        f"<p>Film {n} isn't bad,<br />it is number {n % 7}.</p>" + " Very good!" * (n % 5)
        for n in range(count)
    ]


def write_table(file: Path, texts: list[str]) -> None:
    with file.open("w", encoding="utf-8", newline="") as out:
        table = csv.writer(out)
        table.writerow(["review", "sentiment"])
        table.writerows([text, "positive"] for text in texts)


def run(*command: str, home: Path) -> str:
    environment = {**os.environ, "GPTSCRATCH_HOME": str(home), "OMP_NUM_THREADS": "1"}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def sides(folder: Path) -> dict[str, list[str]]:
    return {
        side: [json.loads(line)["review"] for line in (folder / f"{side}.jsonl").read_text().splitlines()]
        for side in ("train", "val", "test")
    }


def test_reviews_are_split_into_three_parts_that_share_no_text(tmp_path: Path) -> None:
    write_table(tmp_path / "table.csv", 3 * reviews(500))
    run(
        sys.executable,
        str(EXAMPLES / "reviews/prepare.py"),
        str(tmp_path / "table.csv"),
        str(tmp_path),
        home=tmp_path,
    )
    found = sides(tmp_path)
    assert sum(map(len, found.values())) == 1500
    assert 0.75 < len(found["train"]) / 1500 < 0.85
    assert not set(found["train"]) & set(found["val"])
    assert not set(found["train"]) & set(found["test"])


def test_a_prepared_review_is_one_line_without_tags(tmp_path: Path) -> None:
    write_table(tmp_path / "table.csv", reviews(1))
    run(
        sys.executable,
        str(EXAMPLES / "reviews/prepare.py"),
        str(tmp_path / "table.csv"),
        str(tmp_path),
        home=tmp_path,
    )
    assert [text for texts in sides(tmp_path).values() for text in texts] == [
        "Film 0 isn't bad, it is number 0."
    ]


def test_the_experiment_of_the_reviews_runs_from_table_to_results(tmp_path: Path) -> None:
    write_table(tmp_path / "table.csv", reviews(400))
    shown = run(
        "bash",
        str(EXAMPLES / "reviews/run.sh"),
        "--small",
        str(tmp_path / "table.csv"),
        str(tmp_path),
        home=tmp_path,
    )
    for name in ("reviews-onecycle", "reviews-constant", "reviews-ours"):
        assert name in shown


def test_the_python_example_trains_and_samples(corpus: Path, tmp_path: Path) -> None:
    shown = run(sys.executable, str(EXAMPLES / "python_api.py"), "--small", str(corpus), home=tmp_path)
    assert "validation loss" in shown
    assert "logits (1, 3, " in shown
    assert "step 9: loss" in shown


def test_the_shell_example_trains_and_samples(corpus: Path, tmp_path: Path) -> None:
    shown = run("bash", str(EXAMPLES / "shakespeare.sh"), "--small", str(corpus), home=tmp_path)
    assert "result " in shown
    assert len(shown) > 500  # the sample has 500 characters


def test_overlapping_windows_score_every_word_once() -> None:
    script = runpy.run_path(str(EXAMPLES / "reviews/score.py"))
    tokens = np.random.default_rng(0).integers(0, 9, 1003).astype(np.uint16)
    targets = np.concatenate([found.ravel() for _, found in script["overlapping"](tokens, 16, 0)])
    counted = targets[targets != script["IGNORE"]]
    assert len(counted) == np.count_nonzero(tokens[1:])
    assert (np.bincount(counted) == np.bincount(tokens[1:][tokens[1:] != 0])).all()
