"""What the documents say is so: commands run, Python runs, excerpts stand in the code, links lead somewhere.

Each page is one test: its blocks run from top to bottom in a folder of their own. Of ``sh`` blocks every
command of gptscratch runs, in this process; all other commands must be ones that .ci/run runs, or be named in
``BY_HAND``. ``python`` blocks run in one namespace, but for those whose first line names a file: excerpts.
To be quick, numbers are made small on the way (``SMALL``, ``small_python``); nothing else is changed.
"""

from __future__ import annotations

import importlib.util
import io
import json
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import pytest

from gptscratch.cli import app, train
from gptscratch.training.trainer import TrainResult

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
CI = (ROOT / ".ci" / "run").read_text(encoding="utf-8")

# Options whose value is made small, on whatever command they stand.
SMALL = {
    "--steps": "4", "--minutes": "0.02", "--epochs": "0.05", "--tokens": "256",
    "--layers": "1", "--heads": "2", "--kv-heads": "1", "--d-model": "32", "--d-ff": "32",
    "--context-length": "16", "--batch-size": "4", "--micro-batch": "2", "--vocab-size": "300",
    "--eval-interval": "2", "--save-interval": "2", "--max-tokens": "8",
}  # fmt: skip
HORIZONS = {"--steps", "--minutes", "--epochs", "--tokens"}
# What a new run gets besides: these come last and win, also over a preset or a config file.
SHAPE = ("n_layer=1", "n_head=2", "d_model=32", "context_length=16", "batch_size=4", "micro_batch=2")

BY_HAND = ("python3 -m venv ", ". .venv/bin/activate", "pre-commit ")


class Block(NamedTuple):
    language: str
    text: str
    line: int


def blocks_of(page: Path) -> Iterator[Block]:
    text = page.read_text(encoding="utf-8")
    for match in re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        yield Block(match[1], match[2], text[: match.start()].count("\n") + 1)


def is_excerpt(block: Block) -> bool:
    return block.language == "python" and block.text.startswith("# gptscratch/")


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def commands_of(block: Block) -> Iterator[str]:
    """Each command of a shell block: continued lines joined, ``a && b`` taken apart."""
    for line in block.text.replace("\\\n", " ").splitlines():
        bare = line.partition("  #")[0].strip()
        if not bare.startswith("#"):
            yield from (part.strip() for part in bare.split("&&") if part.strip())


def small_command(arguments: list[str]) -> list[str]:
    """The same command with small numbers, and a small text where it names none."""
    values = [None, *arguments[:-1]]
    small = [SMALL.get(str(before), word) for before, word in zip(values, arguments, strict=True)]
    if small[0] == "train" and "--resume" not in small:
        if len(small) == 1 or small[1].startswith("-"):
            small.insert(1, "corpus.txt")
        if not HORIZONS & set(small):
            small += ["--steps", SMALL["--steps"]]
        small += [word for pair in SHAPE for word in ("--set", pair)]
    return small


def small_python(code: str) -> str:
    code = re.sub(r"\b(steps|max_tokens)=\d+", r"\1=4", code)
    return re.sub(r'PRESETS\["gpt2[^"]*"\]', 'PRESETS["nano"]', code)


@pytest.fixture
def desk(tmp_path: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with every file that the pages name."""
    text = corpus.read_text(encoding="utf-8")
    desk = tmp_path / "desk"
    (desk / "notes").mkdir(parents=True)
    for name in ("corpus.txt", "tinyshakespeare.txt", "more.txt", "notes/one.md", "notes/two.md"):
        (desk / name).write_text(text, encoding="utf-8")
    rows = text.splitlines()
    (desk / "stories.jsonl").write_text("".join(json.dumps({"story": row}) + "\n" for row in rows))
    (desk / "reviews.csv").write_text("id,review\n" + "".join(f"{i},{row}\n" for i, row in enumerate(rows)))
    monkeypatch.chdir(desk)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"")))
    return desk


def run_command(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = small_command(shlex.split(command)[1:])
    monkeypatch.setattr(sys, "argv", ["gptscratch", *arguments])
    monkeypatch.setattr(train, "STARTED", time.perf_counter(), raising=False)
    with pytest.raises(SystemExit) as left:
        app.main()
    assert not left.value.code, f"{command}: exit code {left.value.code}"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
@pytest.mark.usefixtures("desk")
def test_everything_on_the_page_runs(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    session: dict[str, Any] = {"__name__": "page"}
    for block in blocks_of(page):
        if block.language == "sh":
            for command in commands_of(block):
                if command.startswith("gptscratch "):
                    run_command(command, monkeypatch)
        elif block.language == "python" and not is_excerpt(block):
            if "transformers" in block.text:
                pytest.importorskip("transformers")
            exec(compile("\n" * block.line + small_python(block.text), page, "exec"), session)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_other_command_is_one_that_ci_runs(page: Path) -> None:
    for block in blocks_of(page):
        for command in commands_of(block) if block.language == "sh" else ():
            known = command.startswith(("gptscratch ", "examples/", "python examples/", *BY_HAND))
            assert known or command in CI, command


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_excerpt_stands_in_its_file(page: Path) -> None:
    for block in filter(is_excerpt, blocks_of(page)):
        first, *lines = (line.strip() for line in block.text.strip().splitlines())
        code = [line.strip() for line in (ROOT / first.removeprefix("# ")).read_text("utf-8").splitlines()]
        found = any(code[i : i + len(lines)] == lines for i in range(len(code)))
        assert found, f"{name_of(page)}:{block.line}: {first} says something else now"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_link_and_every_file_named_is_there(page: Path) -> None:
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", text):
        assert target.startswith("https://") or (page.parent / target).exists(), target
    for file in re.findall(r"`((?:gptscratch|tests|docs|examples)/[\w/.-]+)`", text):
        assert (ROOT / file).exists(), file


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_name_said_to_be_in_a_file_is_there(page: Path) -> None:
    """``*Read: `Block` in `gptscratch/model/gpt.py`.*``, and the lines of tables that name both."""
    text = page.read_text(encoding="utf-8")
    said = re.findall(r"((?:`[\w.]+`(?:,| and)?\s+)+)in\s+`(gptscratch/[\w/]+\.py)`", text)
    for names, file in said:
        code = (ROOT / file).read_text(encoding="utf-8")
        for name in re.findall(r"`([\w.]+)`", names):
            last = name.rpartition(".")[2]
            assert re.search(rf"^\s*(def|class) {last}\b|^{last}\b", code, re.MULTILINE), f"{name} in {file}"


def test_the_generated_pages_are_what_the_code_says() -> None:
    generate = _module(ROOT / "docs" / "generate.py")
    for name, page in generate.PAGES.items():
        stale = f"docs/{name} is stale: run python docs/generate.py"
        assert (ROOT / "docs" / name).read_text(encoding="utf-8") == page(), stale


def test_the_reference_is_written_without_torch() -> None:
    code = "import sys; sys.argv = ['generate', '--check']; sys.path.insert(0, 'docs')\n"
    code += "import generate; generate.main(check=True); sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_the_format_page_names_every_field(fit: Callable[..., TrainResult], home: Path) -> None:
    run = fit(name="a").run
    text = (ROOT / "docs" / "checkpoint-format.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`([\w.-]+)`", text))
    files = [run / "config.json", run / "best.json", run / "last.json", *run.rglob("state.json")]
    files += home.glob("tokens/*/manifest.json")
    records = [json.loads(file.read_text(encoding="utf-8")) for file in files]
    records += map(json.loads, (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
    fields = {key for record in records for key in record} | set(records[-1])
    fields |= {key for record in records for key in record.get("val", ())}
    assert fields - named == set()
    written = {file.name for file in home.rglob("*") if file.is_file()}
    assert written - named == set()


def test_the_readmes_test_command_is_what_ci_runs() -> None:
    readme = [c for b in blocks_of(ROOT / "README.md") if b.language == "sh" for c in commands_of(b)]
    lines = [line.strip() for line in CI.splitlines()]
    assert "pip install -e '.[dev]'" in readme
    assert "pytest" in readme
    assert lines.index("pip install -e '.[dev]'") < lines.index("pytest")


def _module(file: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
