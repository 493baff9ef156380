"""Predicted times: how trials are added up. What they measure depends on the machine and is not tested."""

from __future__ import annotations

from pathlib import Path

import pytest

from tilepress.compress.calibration.calibration import Calibration
from tilepress.compress.duration import Trial, Walk, add_up, predict_seconds
from tilepress.compress.plan import make_plan
from tilepress.formats.checkpoint import open_checkpoint
from tilepress.kernels import parse_spec

TEXT = "It was a bright cold day in April, and the clocks were striking thirteen. " * 40


def test_two_measurements_give_what_is_fixed_and_what_grows_with_the_rows() -> None:
    trial = Trial.through((16, 1.5), (64, 4.5))
    assert (trial.fixed, trial.per_row) == pytest.approx((0.5, 0.0625))


@pytest.mark.parametrize("first", (5.0, 0.0))
def test_no_part_of_a_trial_is_negative_however_it_was_disturbed(first: float) -> None:
    trial = Trial.through((16, first), (64, 4.0))
    assert trial.fixed >= 0
    assert trial.per_row >= 0
    assert trial.fixed + 64 * trial.per_row == pytest.approx(4.0)


def test_a_matrix_that_one_trial_covers_takes_as_long_as_the_trial() -> None:
    assert Trial.through((16, 2.0), (16, 2.0)) == Trial(2.0, 0.0)


def test_tensors_and_the_way_through_the_model_add_up() -> None:
    square = (parse_spec("int:bits=4"), 100, 100, True)
    tall = (parse_spec("nf4"), 1000, 100, False)
    unknown = (parse_spec("fp8"), 10, 10, False)
    trials = {square: Trial(1.0, 0.01), tall: Trial(0.5, 0.002)}
    assert add_up([square, square, tall, unknown], trials) == pytest.approx(2 * 2.0 + 2.5)
    assert add_up([square], trials, [Walk(32, 30, 0.3, 0.2)]) == pytest.approx(2.0 + 32 * 30 * 0.5)


def test_a_conversion_with_a_text_is_predicted_and_kept_statistics_save_the_way(llama: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text(TEXT)
    checkpoint = open_checkpoint(llama)
    calibration = Calibration.prepare(checkpoint, text, 256, tmp_path / "kept")
    plan = make_plan(checkpoint, "int:bits=4", stage=calibration.stage)
    assert calibration.windows_to_run() == len(calibration.windows)
    assert predict_seconds(checkpoint, plan, calibration=calibration) > 0
    (tmp_path / "kept").mkdir()
    for stage in range(1, calibration.model.count + 1):
        (tmp_path / "kept" / f"stage-{stage:04d}.safetensors").touch()
    assert calibration.windows_to_run() == 0
