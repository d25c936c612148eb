"""The documents are true: commands run, Python runs and prints what the page shows, excerpts match the code.

Each page is one test: its blocks run from top to bottom in a temporary folder. In ``sh`` blocks every
``gptscratch`` command runs, in this process; every other command must be one that .ci/run runs, a script of
this repository that has the options given, or be listed in ``BY_HAND``. ``python`` blocks run in one
namespace; a ``text`` block directly under one is its output (``python docs/outputs.py --update PAGE`` writes
it). A Python block whose first line names a file of the package is an excerpt of that file. To keep the tests
fast, commands get small numbers (``SMALL``).
"""

from __future__ import annotations

import importlib.util
import io
import json
import re
import shlex
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from gptscratch.cli import app, train
from gptscratch.training.trainer import TrainResult

ROOT = Path(__file__).parent.parent
CI = (ROOT / ".ci" / "run").read_text(encoding="utf-8")


def _module(file: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


outputs = _module(ROOT / "docs" / "outputs.py")
Block = outputs.Block
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").rglob("*.md")])
BLOCKS = {page: list(outputs.blocks_of(page)) for page in PAGES}

# Options that get a small value in every command.
SMALL = {
    "--steps": "4", "--minutes": "0.02", "--hours": "0.0004", "--epochs": "0.05", "--tokens": "256",
    "--layers": "1", "--heads": "2", "--kv-heads": "1", "--d-model": "32", "--d-ff": "32",
    "--context-length": "16", "--batch-size": "4", "--micro-batch-size": "2", "--vocab-size": "300",
    "--eval-interval": "2", "--save-interval": "2", "--max-tokens": "8",
}  # fmt: skip
LENGTHS = {"--steps", "--minutes", "--hours", "--epochs", "--tokens"}
# Settings of each new run: they come last, so they also replace those of a preset or a config file.
SHAPE = ("n_layer=1", "n_head=2", "d_model=32", "context_length=16", "batch_size=4", "micro_batch_size=2")

BY_HAND = (
    "python3 -m venv ",
    ". .venv/bin/activate",
    "pre-commit ",
    "pip install '.[",
    "llama-simple ",
    "ollama ",
    "cd ",
    "rm -r",
    "export GPTSCRATCH_HOME=",
)
COMMANDS = ("gptscratch ", "python ", "pip ", "pytest", "examples/")


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def pages_with(wanted: Callable[[Any], bool]) -> pytest.MarkDecorator:
    """A test of each page that has such a block."""
    chosen = [page for page, blocks in BLOCKS.items() if any(map(wanted, blocks))]
    assert chosen
    return pytest.mark.parametrize("page", chosen, ids=name_of)


def runs(block: Any) -> bool:
    """Whether something of a block is executed."""
    if block.language == "sh":
        return any(command.startswith("gptscratch ") for command in commands_of(block))
    return block.language == "python" and not outputs.is_excerpt(block)


def commands_of(block: Any) -> Iterator[str]:
    """Each command of a shell block: continued lines joined, ``a && b`` taken apart."""
    for line in block.text.replace("\\\n", " ").splitlines():
        bare = line.partition("  #")[0].strip()
        if not bare.startswith("#"):
            yield from (part.strip() for part in bare.split("&&") if part.strip())


def small_command(arguments: list[str]) -> list[str]:
    """The same command with small numbers."""
    values = [None, *arguments[:-1]]
    small = [SMALL.get(str(before), word) for before, word in zip(values, arguments, strict=True)]
    if small[0] == "train" and "--resume" not in small:
        if not LENGTHS & set(small):
            small += ["--steps", SMALL["--steps"]]
        small += [word for pair in SHAPE for word in ("--set", pair)]
    return small


def small_python(code: str) -> str:
    code = re.sub(r"\b(steps|max_tokens)=\d+", r"\1=4", code)
    return re.sub(r'PRESETS\["gpt2[^"]*"\]', 'PRESETS["nano"]', code)


@pytest.fixture
def desk(tmp_path: Path, corpus: Path, tale: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with every file that the pages name, and a finished run ``my-run``."""
    shutil.copytree(tale, tale.with_name("my-run"))
    text = corpus.read_text(encoding="utf-8")
    desk = tmp_path / "desk"
    (desk / "notes").mkdir(parents=True)
    for name in (
        "corpus.txt",
        "tinyshakespeare.txt",
        "more.txt",
        "story.txt",
        "notes/one.md",
        "notes/two.md",
    ):
        (desk / name).write_text(text, encoding="utf-8")
    (desk / "tasks").mkdir()
    for block in BLOCKS[ROOT / "docs" / "interop.md"]:
        if block.language in ("yaml", "json"):
            (desk / "tasks" / f"animals.{block.language.replace('json', 'jsonl')}").write_text(block.text)
    (desk / "questions.txt").write_text("the fox\na dog\n")
    lines = text.splitlines()
    (desk / "stories.jsonl").write_text("".join(json.dumps({"story": line}) + "\n" for line in lines))
    (desk / "reviews.csv").write_text(
        "id,review\n" + "".join(f"{i},{line}\n" for i, line in enumerate(lines))
    )
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


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """No connection can be opened: the README says that no command needs one."""

    def refuse(*_: object) -> None:
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def lacks_extra(code: str) -> bool:
    """Whether a command or a Python block needs a package that is missing, and not in the extra ``dev``."""
    needed = {"gptscratch eval ": "lm_eval", "from peft ": "peft", "--format onnx": "onnxscript"}
    return any(part in code and importlib.util.find_spec(name) is None for part, name in needed.items())


@pages_with(runs)
@pytest.mark.usefixtures("desk", "offline")
def test_every_command_and_python_block_runs(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    session: dict[str, Any] = {"__name__": "page"}
    for block in BLOCKS[page]:
        if block.language == "sh":
            for command in commands_of(block):
                if command.startswith("gptscratch ") and not lacks_extra(command):
                    run_command(command, monkeypatch)
        elif runs(block) and not lacks_extra(block.text):
            if "transformers" in block.text:
                pytest.importorskip("transformers")
            shown = outputs.run_block(block, page, session, small_python)
            if block.output is not None:
                where = f"{name_of(page)}:{block.line}: run python docs/outputs.py --update {name_of(page)}"
                assert outputs.same_output(shown, block.output), f"{where}\n{shown}"


@pages_with(lambda block: block.language == "sh")
def test_every_other_command_is_one_that_ci_runs_or_a_benchmark(page: Path) -> None:
    for block in BLOCKS[page]:
        for command in commands_of(block) if block.language == "sh" else ():
            script = re.search(r"python ((?:tests/\w+|docs)/\w+\.py|examples/\S+\.py)", command)
            if script:
                source = (ROOT / script[1]).read_text(encoding="utf-8")
                for option in re.findall(
                    r"(?<= )--[a-z-]+", command.partition(script[1])[2].partition(" gptscratch ")[0]
                ):
                    assert f'"{option}"' in source, f"{script[1]} has no option {option}: {command}"
            else:
                known = command.startswith(("gptscratch ", "examples/", *BY_HAND)) or command in CI
                assert known, command


def test_every_command_is_in_a_shell_block() -> None:
    """A command in an indented block would never be run."""
    for page in PAGES:
        text = outputs.FENCE.sub(lambda fence: "\n" * fence[0].count("\n"), page.read_text(encoding="utf-8"))
        for number, line in enumerate(text.splitlines(), 1):
            assert not line.startswith(tuple(f"    {command}" for command in COMMANDS)), f"{page}:{number}"


@pages_with(outputs.is_excerpt)
def test_every_excerpt_is_in_its_file(page: Path) -> None:
    for block in filter(outputs.is_excerpt, BLOCKS[page]):
        first, *lines = (line.strip() for line in block.text.strip().splitlines())
        file = first.removeprefix("# ")
        where = f"{name_of(page)}:{block.line}"
        assert (ROOT / file).is_file(), f"{where}: {file} does not exist; found in {files_with(lines)}"
        assert has_lines(ROOT / file, lines), f"{where}: not in {file}; found in {files_with(lines)}"


def has_lines(file: Path, lines: list[str]) -> bool:
    code = [line.strip() for line in file.read_text("utf-8").splitlines()]
    return any(code[i : i + len(lines)] == lines for i in range(len(code)))


def files_with(lines: list[str]) -> list[str]:
    return [name_of(file) for file in (ROOT / "gptscratch").rglob("*.py") if has_lines(file, lines)]


def test_every_link_and_every_named_file_exists() -> None:
    for page in PAGES:
        text = outputs.FENCE.sub("", page.read_text(encoding="utf-8"))
        for target, anchor in re.findall(r"\]\(([^)#\s]*)(#[^)]*)?\)", text):
            file = page.parent / target if target else page
            assert target.startswith("https://") or file.exists(), f"{page}: {target}"
            if anchor and file.suffix == ".md" and not target.startswith("https://"):
                assert anchor[1:] in anchors_of(file), f"{name_of(page)}: {target}{anchor}"
        for named in re.findall(r"`((?:gptscratch|tests|docs|examples)/[\w/.-]+)`", text):
            assert (ROOT / named).exists(), f"{name_of(page)}: {named}"


def anchors_of(page: Path) -> set[str]:
    """The anchors that GitHub makes of the headings of a page."""
    text = outputs.FENCE.sub("", page.read_text(encoding="utf-8"))
    titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_every_name_said_to_be_in_a_file_is_there() -> None:
    """``*Code: `Block` in `gptscratch/model/gpt.py`.*``, and the lines of tables that name both."""
    found = 0
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for names, file in re.findall(r"((?:`[\w.]+`(?:,| and)?\s+)+)in\s+`(gptscratch/[\w/]+\.py)`", text):
            code = (ROOT / file).read_text(encoding="utf-8")
            for name in re.findall(r"`([\w.]+)`", names):
                last = name.rpartition(".")[2]
                defined = rf"^\s*(def|class) {last}\b|^{last}\b"
                assert re.search(defined, code, re.MULTILINE), f"{name_of(page)}: {name} in {file}"
                found += 1
    assert found


@pytest.mark.parametrize(
    ("shown", "expected", "same"),
    [
        ("loss 1.52\n", "loss 1.50\n", True),
        ("loss 1.62\n", "loss 1.50\n", False),
        ("shape (8, 16)\n", "shape (8, 17)\n", False),
        ("0.01\n", "0.02\n", True),
        ("a 1.0\n", "b 1.0\n", False),
        ("1.0 2.0\n", "1.0\n", False),
    ],
)
def test_outputs_are_compared_with_a_tolerance_for_numbers_only(
    shown: str, expected: str, same: bool
) -> None:
    assert outputs.same_output(shown, expected) is same


def test_outputs_of_a_page_are_rewritten_with_update(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPTSCRATCH_HOME", "")  # restored afterwards
    page = tmp_path / "page.md"
    page.write_text("```python\nx = 6 * 7\nprint(x)\n```\n\n```text\n41\n```\n\nEnd.\n", encoding="utf-8")
    assert outputs.main([str(page)]) == 1
    assert outputs.main(["--update", str(page)]) == 0
    assert outputs.main([str(page)]) == 0
    assert page.read_text(encoding="utf-8").endswith("```text\n42\n```\n\nEnd.\n")


def test_a_recorded_screen_shows_what_remains_after_progress_bars() -> None:
    screen = _module(ROOT / "docs" / "recording.py").screen
    assert screen("bar 1%\rbar 2%\r\x1b[2Kdone\r\nnext\n\n") == ["done", "next"]
    assert screen("one\ntwo\n\x1b[1A\x1b[2Kthree") == ["one", "three"]


def test_the_pictures_can_be_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "docs")
    pictures = _module(ROOT / "docs" / "pictures.py")
    monkeypatch.setattr(pictures, "FOLDER", tmp_path)
    monkeypatch.setenv("GPTSCRATCH_HOME", "")  # restored afterwards
    pictures.main()
    made = {file.name for file in tmp_path.iterdir()}
    assert made == {file.name for file in (ROOT / "docs" / "pictures").iterdir()}


def test_the_generated_pages_match_the_code() -> None:
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
    named = set(re.findall(r"`([\w.<>-]+)`", text))
    files = [run / "config.json", run / "best.json", run / "last.json", *run.rglob("state.json")]
    files += home.glob("tokens/*/manifest.json")
    records = [json.loads(file.read_text(encoding="utf-8")) for file in files]
    records += map(json.loads, (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
    fields = {key for record in records for key in record} | set(records[-1])
    fields |= {key for record in records for key in record.get("val", ())}
    assert fields - named == set()
    written = {re.sub(r"\b[0-9a-f]{24}\b", "<key>", file.name) for file in home.rglob("*") if file.is_file()}
    assert written - named == set()
    formats = re.findall(r"\| `format` \| format of the (run folder|checkpoint|token files): (\d+) \|", text)
    written_formats = {
        "run folder": run / "config.json",
        "checkpoint": next(run.rglob("state.json")),
        "token files": next(home.glob("tokens/*/manifest.json")),
    }
    assert dict(formats) == {
        name: str(json.loads(file.read_text(encoding="utf-8"))["format"])
        for name, file in written_formats.items()
    }


def test_the_test_command_of_the_readme_is_what_ci_runs() -> None:
    readme = [
        command
        for block in BLOCKS[ROOT / "README.md"]
        if block.language == "sh"
        for command in commands_of(block)
    ]
    lines = [line.strip() for line in CI.splitlines()]
    assert "pip install -e '.[dev]'" in readme
    assert "pytest -n 2" in readme
    assert lines.index("pip install -e '.[dev]'") < lines.index("pytest -n 2")
