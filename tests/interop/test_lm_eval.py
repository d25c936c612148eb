"""The evaluation harness: its results for a run are those of its own model ``hf`` for the exported folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gptscratch.errors import ConfigError
from gptscratch.generation.generator import load
from gptscratch.interop.export import export
from gptscratch.training.trainer import train

lm_eval = pytest.importorskip("lm_eval")
pytestmark = pytest.mark.filterwarnings("ignore")  # of the harness and its many dependencies

CHOICES = """\
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_target: 0
doc_to_choice: choices
metric_list: [{{metric: acc}}, {{metric: acc_norm}}]
"""
ROLLING = """\
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{{{text}}}}"
metric_list: [{{metric: word_perplexity}}, {{metric: bits_per_byte}}]
"""
GENERATED = """\
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: generate_until
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{text}}}}"
generation_kwargs: {{until: ["."], max_gen_toks: 6}}
metric_list: [{{metric: exact_match}}]
"""
ROWS = [
    {"question": "the fox runs", "choices": [" home", " a dog"], "text": "the fox runs home.\na dog sings."},
    {"question": "a dog", "choices": [" sings here", " sleeps"], "text": "my <|endoftext|> sleeps.\n" * 5},
    {"question": "my cat sleeps", "choices": [".\nthe", "fox fox"], "text": "the fox"},
]  # fmt: skip


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run whose corpus has documents: the harness begins a text with the token between them."""
    text = tmp_path / "documents.txt"
    text.write_text("the fox runs home.\n<|endoftext|>\na dog sleeps. my cat sings.\n<|endoftext|>\n" * 60)

    return train(
        text, name="documents", n_layer=2, n_head=2, n_kv_head=1, d_model=32, context_length=16, steps=30,
        batch_size=8, sample_interval=0, device="cpu", dtype="float32", tokenizer="bpe",
        **{"data.vocab_size": 280},
    ).run  # fmt: skip


@pytest.fixture
def task_dir(tmp_path: Path) -> Path:
    folder, data = tmp_path / "tasks", tmp_path / "data.jsonl"
    folder.mkdir()
    data.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    for name, task in {"choices": CHOICES, "rolling": ROLLING, "generated": GENERATED}.items():
        (folder / f"{name}.yaml").write_text(task.format(name=name, data=data))
    return folder


def test_the_results_are_those_of_the_exported_folder(run: Path, task_dir: Path, tmp_path: Path) -> None:
    from lm_eval.tasks import TaskManager

    from gptscratch.interop.lm_eval import evaluate

    tasks = ["choices", "rolling", "generated"]
    found = evaluate(load(run), tasks, task_dir=task_dir)["results"]
    folder = export(run, tmp_path / "exported").folder
    manager = TaskManager(include_path=str(task_dir), include_defaults=False)
    theirs: Any = lm_eval.simple_evaluate(
        "hf", model_args={"pretrained": folder, "device": "cpu"}, tasks=tasks, task_manager=manager
    )
    for task, values in theirs["results"].items():
        for name, value in values.items():
            if isinstance(value, float) and "stderr" not in name:  # which are random
                assert found[task][name] == pytest.approx(value, rel=1e-5), (task, name)
    assert found["rolling"]["bits_per_byte,none"] > 0


def test_the_log_likelihoods_are_those_of_the_exported_folder(run: Path, tmp_path: Path) -> None:
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    from gptscratch.interop.lm_eval import HarnessModel

    own, theirs = HarnessModel(load(run)), HFLM(export(run, tmp_path / "out").folder, device="cpu")
    pairs = [
        ("the fox", " runs home."),
        ("", "a dog"),
        ("my cat sings. " * 9, "far"),
        ("a ", "dog <|endoftext|>"),
    ]
    requests = [Instance("loglikelihood", {}, pair, 0) for pair in pairs]
    texts = ["the fox runs home.", "a dog sleeps. " * 20, "x", "<|endoftext|>a"]
    rolling = [Instance("loglikelihood_rolling", {}, (text,), 0) for text in texts]
    for (value, is_greedy), (their_value, they) in zip(
        own.loglikelihood(requests), theirs.loglikelihood(requests), strict=True
    ):
        assert value == pytest.approx(their_value, abs=1e-4)
        assert is_greedy == they
    assert own.loglikelihood_rolling(rolling) == pytest.approx(
        theirs.loglikelihood_rolling(rolling), abs=1e-4
    )


def test_the_generated_texts_are_those_of_the_exported_folder(run: Path, tmp_path: Path) -> None:
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    from gptscratch.interop.lm_eval import HarnessModel

    own, theirs = HarnessModel(load(run)), HFLM(export(run, tmp_path / "out").folder, device="cpu")
    options = {"until": ["."], "max_gen_toks": 6}
    requests = [Instance("generate_until", {}, (text, options), 0) for text in ("the fox", "a dog", "my")]
    texts = own.generate_until(requests)
    assert texts == theirs.generate_until(requests)
    assert all(texts)


def test_an_unknown_task_and_data_that_are_missing_are_refused(run: Path, task_dir: Path) -> None:
    from gptscratch.interop.lm_eval import evaluate

    with pytest.raises(ConfigError, match="Did you mean choices"):
        evaluate(load(run), ["choice"], task_dir=task_dir)
    (task_dir / "broken.yaml").write_text(CHOICES.format(name="broken", data="missing.jsonl"))
    with pytest.raises(ConfigError, match=r"missing\.jsonl"):
        evaluate(load(run), ["broken"], task_dir=task_dir)
    with pytest.raises(ConfigError, match="is not a folder"):
        evaluate(load(run), ["choices"], task_dir=task_dir / "nowhere")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ('{"question": "a d', "JSON"),
        ('{"question": "a", "choices": 3}', "TypeError"),
    ],
)
def test_malformed_data_are_one_line_with_the_cause(
    row: str, message: str, run: Path, task_dir: Path, tmp_path: Path
) -> None:
    from gptscratch.interop.lm_eval import evaluate

    (tmp_path / "data.jsonl").write_text(row)
    with pytest.raises(ConfigError, match=f"cannot be evaluated: .*{message}") as caught:
        evaluate(load(run), ["choices"], task_dir=task_dir)
    assert "\n" not in str(caught.value)
