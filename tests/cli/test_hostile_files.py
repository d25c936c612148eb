"""Files that others wrote or a disk damaged: each reader gives a value or one clear error.

``tests/torture/mutate.py`` does the same with whole commands and many more files.
"""

from __future__ import annotations

import ast
import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from gptscratch.cli import render
from gptscratch.cli.curve import loss_curve
from gptscratch.config import DataConfig
from gptscratch.data.chunks import ReadCounts, Reading, Sizes
from gptscratch.data.readers import read_documents
from gptscratch.data.sources import Source
from gptscratch.data.token_files import open_tokens
from gptscratch.errors import CheckpointError, TokenizerError, UserError
from gptscratch.interop.hf_import import config_from_hf
from gptscratch.report.doctor import diagnose
from gptscratch.report.page import render_page
from gptscratch.report.record import read_report
from gptscratch.runs import checkpoint
from gptscratch.runs.metrics import parse_metrics
from gptscratch.runs.run import read_run
from gptscratch.runs.summary import describe_run
from gptscratch.runs.tensors import load_shapes, load_tensors, save_tensors
from gptscratch.tokenizer import Tokenizer, build_tokenizer
from gptscratch.training import fine_tuning
from gptscratch.training.state import TrainState
from tests.test_layers import names_in

few = settings(
    max_examples=40, derandomize=True, database=None, deadline=None, phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)  # fmt: skip
NUMBERS = st.sampled_from(
    (-1, 0, 1, 2**31, 2**40, 2**63, 10**400, 0.5, 1e308, float("nan"), float("inf"), True)
)
TEXTS = st.sampled_from(("", "x", "..", "/dev/zero", "\ud800", "\x00", "x" * 5000, "26", "1e400")) | st.text(
    max_size=5
)
VALUES = st.recursive(
    st.none() | NUMBERS | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=4,
)


def places(document: Any, above: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    keys = (
        document if isinstance(document, dict) else range(len(document)) if isinstance(document, list) else ()
    )
    return [place for key in keys for place in ((*above, key), *places(document[key], (*above, key)))]


@st.composite
def damaged(draw: Callable[..., Any], document: Any) -> Any:
    """The document with another value at one or two places, or without them."""
    document = json.loads(json.dumps(document))
    for _ in range(draw(st.integers(1, 2))):
        if not document:
            break
        *path, last = draw(st.sampled_from(places(document)))
        holder = document
        for key in path:
            holder = holder[key]
        if draw(st.integers(0, 5)) == 0:
            del holder[last]
        else:
            holder[last] = draw(VALUES)
    return document


@st.composite
def damaged_bytes(draw: Callable[..., Any], data: bytes) -> bytes:
    """The bytes with a part of them cut out, or replaced by others."""
    start, end = sorted((draw(st.integers(0, len(data))), draw(st.integers(0, len(data)))))
    end = min(end, start + draw(st.sampled_from((1, 8, len(data)))))
    return data[:start] + draw(st.binary(max_size=8)) + data[end:]


@contextlib.contextmanager
def replaced(file: Path, content: Any) -> Any:
    before = file.read_bytes()
    file.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    with contextlib.suppress(UserError):
        yield
    file.write_bytes(before)


def show(run: Path) -> None:
    """All that the commands info, report and doctor compute."""
    render.run(describe_run(run), json=False)
    report = read_report(run)
    render_page([report], live=True)
    diagnose(report)
    loss_curve(parse_metrics((run / "metrics.jsonl").read_bytes()), 80)


def resumable(run: Path) -> None:
    """What a resume reads before it trains."""
    record, folder = read_run(run), run / "checkpoints" / "step-00000024"
    TrainState.from_dict(checkpoint.load_state(folder))
    checkpoint.require_same_shapes(run, record, folder)
    fine_tuning.read(run)


LOSSES = {
    "val_loss": 2.0,
    "val_accuracy": 0.1,
    "val_perplexity": 7.4,
    "val_bits_per_byte": 3.0,
    "val_tokens": 9,
}
FACTS = {"before": LOSSES | {"step": 0}, "init_from": "tale"}


@pytest.mark.parametrize(
    "name",
    ["config.json", "best.json", "last.json", "plan.json", "state.json", "fine_tuning.json", "metrics.jsonl"],
)
def test_no_value_in_a_file_of_a_run_ends_in_a_traceback(tale: Path, name: str) -> None:
    file = tale / "checkpoints" / "step-00000024" / name if name == "state.json" else tale / name
    if name == "fine_tuning.json":
        file.write_text(json.dumps(FACTS))
    lines = file.read_text().splitlines() if name == "metrics.jsonl" else [file.read_text()]
    documents = [json.loads(line) for line in lines]

    @few
    @given(damaged(documents), st.booleans())
    def check(changed: Any, is_resumed: bool) -> None:
        with replaced(file, "\n".join(map(json.dumps, changed)).encode()):
            (resumable if is_resumed else show)(tale)

    check()


def test_no_safetensors_header_ends_in_a_traceback(tmp_path: Path) -> None:
    file = tmp_path / "x.safetensors"
    save_tensors(file, {"a": torch.ones(2, 3), "b": torch.zeros(4)})
    size = int.from_bytes(file.read_bytes()[:8], "little")
    header, body = json.loads(file.read_bytes()[8 : 8 + size]), file.read_bytes()[8 + size :]

    @few
    @given(damaged(header), st.none() | NUMBERS.filter(lambda n: type(n) is int and 0 <= n < 2**64))
    def check(changed: Any, claimed: int | None) -> None:
        text = json.dumps(changed).encode()
        file.write_bytes((len(text) if claimed is None else claimed).to_bytes(8, "little") + text + body)
        with contextlib.suppress(CheckpointError):
            shapes = load_shapes(file)
            assert shapes == {name: tuple(t.shape) for name, t in load_tensors(file).items()}

    check()


@pytest.mark.parametrize("kind", ["char", "word", "bpe"])
def test_no_tokenizer_json_ends_in_a_traceback(tmp_path: Path, kind: str) -> None:
    library = build_tokenizer(kind, ["a dog runs home"], alphabet="abcdefghrunsome ", min_frequency=1)
    spec = json.loads(library.to_str())
    spec["model"]["vocab"] = dict(list(spec["model"]["vocab"].items())[:12])

    @few
    @given(damaged(spec))
    def check(changed: Any) -> None:
        (tmp_path / "tokenizer.json").write_text(json.dumps(changed))
        with contextlib.suppress(TokenizerError):
            tokenizer = Tokenizer.load(tmp_path)
            tokenizer.decode(tokenizer.encode("a dog 7\n"))
            tokenizer.token_bytes()

    check()


@pytest.mark.parametrize(
    "normalizer",
    [
        {
            "type": "Sequence",
            "normalizers": [{"type": "Replace", "pattern": {"Regex": "."}, "content": "ab"}] * 40,
        },
        {"type": "Prepend", "prepend": "x" * 10_000},
        {"type": "Precompiled", "precompiled_charsmap": "AAAA"},
    ],
)
def test_a_tokenizer_that_would_take_all_memory_or_that_panics_is_an_error(
    tmp_path: Path, normalizer: Any
) -> None:
    spec = json.loads(build_tokenizer("byte", [], alphabet="").to_str())
    (tmp_path / "tokenizer.json").write_text(json.dumps(spec | {"normalizer": normalizer}))
    with pytest.raises(TokenizerError):
        Tokenizer.load(tmp_path).encode("a dog")


def test_no_token_file_or_manifest_ends_in_a_traceback(tale: Path) -> None:
    folder = Path(read_run(tale).tokens)
    manifest = json.loads((folder / "manifest.json").read_text())

    @few
    @given(damaged(manifest))
    def check(changed: Any) -> None:
        with replaced(folder / "manifest.json", changed):
            open_tokens(folder)

    check()


EXECUTING = {
    "pickle", "dill", "joblib", "marshal", "shelve", "yaml", "subprocess", "runpy", "code", "eval", "exec",
    "compile", "__import__", "os.system", "os.popen", "pickle.load", "pickle.loads", "np.load",
}  # fmt: skip
HUGGING_FACE = {
    "model_type": "llama", "vocab_size": 9, "hidden_size": 8, "intermediate_size": 8, "layer_types": None,
    "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 4,
    "max_position_embeddings": 8, "rope_scaling": {"rope_type": "llama3", "factor": 8.0},
}  # fmt: skip
GPT2 = {
    "model_type": "gpt2",
    "vocab_size": 9,
    "n_embd": 8,
    "n_layer": 1,
    "n_head": 2,
    "n_positions": 8,
    "n_inner": None,
}


@pytest.mark.parametrize("values", [HUGGING_FACE, GPT2])
def test_no_config_of_hugging_face_ends_in_a_traceback(values: Any) -> None:
    @few
    @given(damaged(values))
    def check(changed: Any) -> None:
        with contextlib.suppress(UserError):
            config_from_hf(changed)

    check()


ROWS = b'{"text": "one"}\n{"text": "caf\\u00e9 \\ud83d\\ude00"}\n'
CORPORA = {
    "a.txt": b"one\n<|endoftext|>\ntwo\xc3\xa9\r\n",
    "a.jsonl": ROWS,
    "a.csv": b'text,n\n"a ""b""\n",2\n',
    "a.tsv": b"text\ta\nx\ty\n",
}


@pytest.mark.parametrize("name", CORPORA)
def test_no_bytes_of_a_corpus_end_in_a_traceback(tmp_path: Path, name: str) -> None:
    file = tmp_path / name

    @few
    @given(damaged_bytes(CORPORA[name]), st.sampled_from(("utf-8", "auto", "utf-16", "utf-7")), st.booleans())
    def check(data: bytes, encoding: str, is_strict: bool) -> None:
        file.write_bytes(data)
        config = DataConfig(encoding=encoding, encoding_errors="strict" if is_strict else "replace")
        with contextlib.suppress(UserError):
            sizes = Sizes(chunk=16, longest=64)
            list(
                read_documents(Reading(Source(str(file), True), config, ReadCounts(), sizes, lambda _: None))
            )

    check()


@pytest.mark.parametrize(
    "name", ["config.json", "metrics.jsonl", "checkpoints", "checkpoints/step-00000024/model.safetensors"]
)
@pytest.mark.parametrize("exists", [True, False])
def test_a_link_that_leads_out_of_a_run_is_refused_by_all_that_write(
    gptscratch: Any, tale: Path, tmp_path: Path, corpus: Path, name: str, exists: bool
) -> None:
    target = tmp_path / "elsewhere"
    (tale / name).rename(target if exists else tmp_path / "moved")
    (tale / name).symlink_to(target)
    before = {file: file.stat().st_mtime_ns for file in tmp_path.glob("elsewhere/**/*")}
    for command in (
        ("train", "--resume", tale, "--steps", 30),
        ("train", corpus, "--out", tale, "--force", "--steps", 1),
    ):
        ended = gptscratch(*command)
        assert ended.code == 2, ended
        assert "link" in ended.err or not exists
    assert target.exists() is exists
    assert {file: file.stat().st_mtime_ns for file in tmp_path.glob("elsewhere/**/*")} == before


def test_nothing_in_the_package_executes_a_file() -> None:
    """No pickle, no eval, no other program; torch.load reads tensors and plain values alone."""
    found, loads = set(), []
    for file, node in names_in(ast.Import, ast.ImportFrom, ast.Call):
        if isinstance(node, ast.Import | ast.ImportFrom):
            module = node.module if isinstance(node, ast.ImportFrom) else None
            found |= {(file, (module or name.name).split(".")[0]) for name in node.names}
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name | ast.Attribute):
            found.add((file, ast.unparse(node.func)))
            if ast.unparse(node.func) == "torch.load":
                loads.append([(each.arg, ast.unparse(each.value)) for each in node.keywords])
    assert {each for each in found if each[1] in EXECUTING} == set()
    assert loads
    assert all(("weights_only", "True") in keywords for keywords in loads)
