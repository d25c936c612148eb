"""Each rule of the diagnosis: a run with the fault, and one without it."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gptscratch.cli.app import main
from gptscratch.generation.memorization import CopiedSpan
from gptscratch.report.copies import Copies
from gptscratch.report.doctor import Finding, curves, diagnose, sizes, texts
from gptscratch.report.listeners import listening
from gptscratch.report.record import RunReport, read_report
from gptscratch.training.events import Evaluated, Event, Notice, Started

STEPS = np.arange(10, 1010, 10)
FLAT = 2.0 + 2.0 * np.exp(-STEPS / 60)  # a loss that has converged
EVEN = np.full(100, 1000.0)


@pytest.fixture
def run(tale: Path) -> RunReport:
    """A run of 1,000 steps whose curves flatten out, on a corpus of a million tokens."""
    return curved(read_report(tale))


def curved(
    run: RunReport,
    train: Any = FLAT,
    val: Any = FLAT[9::10] + 0.05,
    speed: Any = EVEN,
    **settings: Any,
) -> RunReport:
    described, summary = run.described, run.described.summary
    config = described.config | {
        "train": described.config["train"] | settings,
        "split": {"train_tokens": 1_000_000},
    }
    given = [f"train.{name}" for name in settings]
    plan = described.plan | {"tokens": 1_000_000, "seconds": 100.0, "given": given}
    columns = {"step": STEPS, "tokens": 1000 * STEPS, "seconds": STEPS / 10, "learning_rate": 0.03 + 0 * FLAT,
               "grad_norm": np.ones(100), "train_loss": train, "tokens_per_second": speed}  # fmt: skip
    validation = {"step": STEPS[9::10], "val_loss": val}
    return replace(
        run,
        described=replace(
            described, config=config, plan=plan, summary=replace(summary, tokens=10**6, seconds=100.0)
        ),
        training={name: [float(x) for x in values] for name, values in columns.items()},
        validation={name: [float(x) for x in values] for name, values in validation.items()},
        step=1000,
    )


def copies(tokens: int, natural: int | None, text: str = "a b c") -> Copies:
    span = CopiedSpan(text="a", start=0, end=1, tokens=tokens, of_tokens=200, place=0, times=1)
    return Copies(texts=[(text, span)], natural=natural)


def test_a_good_run_has_no_findings(run: RunReport) -> None:
    assert diagnose(run, copies(8, natural=7)) == []


def test_overfitting_is_named_with_its_first_step(run: RunReport) -> None:
    val = [3.0, 2.6, 2.4, 2.2, 2.3, 2.4, 2.5, 2.6, 2.7, 2.8]
    falling = np.linspace(4.0, 1.0, 100)
    finding = curves.overfitting(curved(run, train=falling, val=val))
    assert finding is not None
    assert finding.name == "Overfitting from step 400"
    assert "2.2000 at step 400 to 2.8000 at step 1,000" in finding.evidence
    assert "--steps 400" in finding.advice
    assert curves.overfitting(run) is None
    rising = np.linspace(1.0, 4.0, 100)
    assert curves.overfitting(curved(run, train=rising, val=val)) is None  # both rise: something else
    assert curves.overfitting(curved(run, train=falling, val=[*sorted(val, reverse=True)[:-1], 2.21])) is None


def test_jumps_of_the_loss_mean_that_the_learning_rate_is_too_high(run: RunReport) -> None:
    spiky = np.linspace(4.0, 2.0, 100)
    spiky[[40, 60]] += 1.0
    finding = curves.learning_rate_too_high(curved(run, train=spiky, learning_rate=0.3))
    assert finding is not None
    assert "jumped 2 times" in finding.evidence
    assert "--learning-rate 0.1" in finding.advice
    spiky[60] -= 1.0
    assert curves.learning_rate_too_high(curved(run, train=spiky)) is None  # one jump is an accident
    assert curves.learning_rate_too_high(run) is None


def test_a_tiny_rate_with_a_loss_that_falls_is_too_low(run: RunReport) -> None:
    falling = 8.0 - 0.5 * np.log(STEPS)
    assert curves.learning_rate_too_low(curved(run, train=falling, learning_rate=0.001)) is not None
    assert curves.learning_rate_too_low(curved(run, train=falling, learning_rate=0.03)) is None
    assert curves.learning_rate_too_low(curved(run, learning_rate=0.001)) is None  # it has converged
    planned = curved(run, train=falling, learning_rate=0.001)
    planned.described.plan["given"] = []
    assert curves.learning_rate_too_low(planned) is None  # as for weights that are trained already


def test_the_gain_of_twice_the_training_is_between_two_curves(run: RunReport) -> None:
    finding = curves.too_short(curved(run, train=8.0 - 0.5 * np.log(STEPS)))
    assert finding is not None
    gain = 0.5 * np.log(2) / (8.0 - 0.5 * np.log(980))
    assert f"to {gain:.1%} less" in finding.evidence  # the curve is a line over log(tokens)
    assert "--steps 2000" in finding.advice
    finding = curves.too_short(curved(run, train=2.0 + 300 / STEPS))
    assert finding is not None
    gain = 0.15 / (2.0 + 300 / 980)
    assert f"expect {gain:.1%} to" in finding.evidence  # it is E + A / tokens
    assert curves.too_short(run) is None


def test_a_run_that_was_interrupted_is_to_be_continued_as_it_was_planned(run: RunReport) -> None:
    falling = curved(run, train=8.0 - 0.5 * np.log(STEPS), steps=6000)
    finding = curves.too_short(replace(falling, finished=False))
    assert finding is not None
    assert "not finished" in finding.advice
    assert finding.advice.endswith("gptscratch train --resume tale")
    assert curves.too_short(replace(falling, finished=True)) is None  # stopped by --patience


def test_the_decay_of_the_learning_rate_is_not_taken_for_learning(run: RunReport) -> None:
    flat_then_decay = np.concatenate([np.full(50, 3.0), np.linspace(3.0, 2.5, 50)])
    report = curved(run, train=flat_then_decay)
    rates = np.concatenate([np.full(50, 0.03), np.linspace(0.03, 0.0, 50)])
    decayed = replace(report, training={**report.training, "learning_rate": [float(x) for x in rates]})
    assert curves.too_short(decayed) is None


def test_a_speed_that_varies_is_noticed(run: RunReport) -> None:
    speed = np.where(STEPS < 400, 400.0, 1000.0)
    assert curves.uneven_speed(curved(run, speed=speed)) is not None
    noise = np.where(np.arange(100) % 4 == 0, 300.0, 1000.0)  # a quarter of the logs, all along the run
    assert curves.uneven_speed(curved(run, speed=noise)) is None
    assert curves.uneven_speed(run) is None


def test_a_run_that_is_slower_than_its_plan_is_noticed(run: RunReport) -> None:
    slow = replace(run.described, plan=run.described.plan | {"tokens": 2_000_000, "seconds": 100.0})
    assert curves.slower_than_planned(replace(run, described=slow)) is not None
    assert curves.slower_than_planned(run) is None


def test_steps_of_few_tokens_that_leave_the_processor_idle_are_noticed(run: RunReport) -> None:
    def trained(batch_size: int, speed: float, **facts: Any) -> RunReport:
        report = curved(run, speed=np.full(100, speed), batch_size=batch_size, dtype="float32")
        plan = report.described.plan | {"device": "cpu", "flops_per_second": 1e11} | facts
        return replace(report, described=replace(report.described, plan=plan))

    model = run.described.model
    usual = 0.8 * model.config.d_model / (model.config.d_model + 60) * 1e11 / model.training_flops_per_token
    finding = sizes.steps_too_small(trained(1, usual / 5))
    assert finding is not None
    assert f"A step has {model.config.context_length} tokens" in finding.evidence
    assert sizes.steps_too_small(trained(1, usual)) is None
    assert sizes.steps_too_small(trained(64, usual / 5)) is None  # other programs, not the steps
    assert (
        sizes.steps_too_small(trained(1, usual / 5, device="cuda")) is None
    )  # no example was measured there
    assert sizes.steps_too_small(trained(1, usual / 5, flops_per_second=None)) is None


def test_a_model_with_ten_parameters_for_each_token_is_too_large(run: RunReport) -> None:
    assert sizes.model_too_large(with_model(run, 12_000_000)) is not None
    assert sizes.model_too_large(with_model(run, 800_000)) is None


def test_a_small_model_without_a_gap_between_its_losses_is_too_small(run: RunReport) -> None:
    seen = replace(run.described, summary=replace(run.described.summary, tokens=6_000_000))
    many_epochs = replace(run, described=seen)
    assert sizes.model_too_small(with_model(many_epochs, 10_000)) is not None
    assert sizes.model_too_small(with_model(many_epochs, 800_000)) is None
    assert sizes.model_too_small(with_model(run, 10_000)) is None  # one epoch
    overfitted = curved(run, val=np.full(10, 2.5))
    assert sizes.model_too_small(with_model(replace(overfitted, described=seen), 10_000)) is None


def with_model(run: RunReport, parameters: int, vocab_size: int | None = None) -> RunReport:
    model = replace(run.described.model, non_embedding_parameters=parameters)
    if vocab_size is not None:
        model = replace(model, config=model.config.changed(vocab_size=vocab_size))
    return replace(run, described=replace(run.described, model=model))


def test_a_vocabulary_whose_entries_are_rare_is_too_large(run: RunReport) -> None:
    finding = sizes.vocabulary_too_large(with_model(run, 800_000, vocab_size=32_000))
    assert finding is not None
    assert "--vocab-size 4096" in finding.advice
    assert sizes.vocabulary_too_large(with_model(run, 800_000, vocab_size=4096)) is None


def test_no_vocabulary_is_proposed_that_a_bpe_tokenizer_cannot_have(run: RunReport) -> None:
    short = run.described.config | {"split": {"train_tokens": 27_000}}
    described = replace(with_model(run, 800_000, vocab_size=2941).described, config=short)
    finding = sizes.vocabulary_too_large(replace(run, described=described))
    assert finding is not None
    assert finding.advice == "Use --tokenizer char, and compare bits per byte."


def test_the_sizes_of_a_fine_tuned_run_are_not_judged(run: RunReport) -> None:
    large = with_model(run, 12_000_000, vocab_size=32_000)
    assert [finding.name for finding in diagnose(large)] == [
        "Model too large for the corpus",
        "Vocabulary too large for the corpus",
    ]
    assert diagnose(replace(large, init_from="gpt2")) == []


def test_a_command_names_a_run_outside_the_cache_by_its_folder(run: RunReport) -> None:
    falling = curved(run, train=8.0 - 0.5 * np.log(STEPS))
    summary = replace(falling.described.summary, folder="my runs/tale")
    finding = curves.too_short(replace(falling, described=replace(falling.described, summary=summary)))
    assert finding is not None
    assert "--resume 'my runs/tale' --steps 2000" in finding.advice


def test_duplicated_and_copied_text_are_different_findings() -> None:
    assert texts.duplicated_text(copies(8, natural=150)) is not None
    assert texts.copied_text(copies(150, natural=150)) is None
    assert texts.copied_text(copies(150, natural=9)) is not None
    assert texts.duplicated_text(copies(150, natural=9)) is None
    assert texts.copied_text(copies(40, natural=30)) is None
    finding = texts.copied_text(copies(150, natural=None))
    assert finding is not None
    assert finding.evidence == "150 of 200 generated tokens are one span of the training text."
    assert texts.duplicated_text(copies(8, natural=None)) is None


def test_validation_passages_in_the_training_text_are_noticed() -> None:
    finding = texts.leaked_text(replace(copies(8, natural=15), leaked=0.3))
    assert finding is not None
    assert "30% of the passages" in finding.evidence
    assert texts.leaked_text(replace(copies(8, natural=15), leaked=0.02)) is None  # a single one
    assert texts.leaked_text(replace(copies(8, natural=200), leaked=1.0)) is None  # it is another finding


def test_samples_that_repeat_their_lines_are_noticed(run: RunReport) -> None:
    def sampled(*samples: str) -> RunReport:
        return replace(run, samples=[{"step": i, "text": text} for i, text in enumerate(samples)])

    line = "INFO worker: heartbeat received, queue empty\n"
    other = " ".join(str(number) for number in range(1000, 1050))
    finding = texts.repeated_samples(sampled(other, 3 * line, 3 * line, 3 * line))
    assert finding is not None
    share = 1 - len(line) / (3 * len(line) - 19)  # of the spans of 20 characters
    assert f"typically {share:.0%} of the spans" in finding.evidence
    assert texts.repeated_samples(sampled(3 * line, other, other)) is None
    assert texts.repeated_samples(sampled("ab " * 10)) is None  # too short to say
    assert texts.repeated_samples(sampled()) is None


def test_a_notice_comes_once_while_a_run_trains(
    run: RunReport, tale: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spiky = np.linspace(4.0, 2.0, 100)
    spiky[[40, 60]] += 1.0
    report = curved(run, train=spiky)
    monkeypatch.setattr("gptscratch.report.record.read_report", lambda *_: report)
    seen: list[Event] = []
    with listening(seen.append) as on_event:
        on_event(Started(run=tale, config=None, step=0, parameters=1))  # type: ignore[arg-type]
        for step in (10, 20):
            on_event(Evaluated(step, 2.0, 0.5, 7.4, 1.0, 100))
    notices = [event.text for event in seen if isinstance(event, Notice)]
    assert len(notices) == 1
    assert notices[0].startswith("Learning rate too high. The training loss jumped")


def test_doctor_prints_findings_or_that_there_are_none(
    tale: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def output(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["gptscratch", "doctor", tale.name, *arguments])
        with pytest.raises(SystemExit) as left:
            main()
        assert not left.value.code
        return capsys.readouterr().out

    finding = Finding(name="Too hot", evidence="It is 40 degrees.", meaning="Hot.", advice="Wait.")
    monkeypatch.setattr("gptscratch.report.doctor.diagnose", lambda *_: [finding])
    assert json.loads(output("--json")) == [asdict(finding)]
    shown = output("--no-copies")
    assert all(text in shown for text in asdict(finding).values())
    monkeypatch.setattr("gptscratch.report.doctor.diagnose", lambda *_: [])
    assert output() == "Nothing was found that is wrong with tale.\n"
