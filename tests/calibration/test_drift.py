from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from edgeprune.core.errors import DataError, ModelError
from edgeprune_calibration.data import Dataset, TensorSpec, open_dataset
from edgeprune_calibration.drift import DriftMeter, logits_like, measure_drift
from edgeprune_calibration.reference import record

rng = np.random.default_rng(0)
DENSE = rng.normal(size=(7, 5)).astype(np.float32)
PRUNED = (DENSE + rng.normal(size=DENSE.shape) * 0.3).astype(np.float32)
NAMES = tuple(f"s{index}" for index in range(7))


class Table:
    """A model that maps a row of numbers to the row of a table that its first number names."""

    name = "table"

    def __init__(self, **tables: np.ndarray) -> None:
        self.tables = tables
        self.runs = 0

    def run(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        self.runs += 1
        rows = feeds["x"][:, 0].astype(int)
        return {name: table[rows] for name, table in self.tables.items()}


@pytest.fixture
def rows(tmp_path: Path) -> Dataset:
    np.save(tmp_path / "rows.npy", np.arange(7, dtype=np.float32)[:, None])
    return open_dataset(tmp_path / "rows.npy", [TensorSpec("x", (None, 1))])


def test_metrics_are_the_textbook_ones() -> None:
    meter = DriftMeter("logits")
    meter.add(NAMES, DENSE, PRUNED)
    drift = meter.drift()
    kls, cosines, errors, correlations = [], [], [], []
    for a, b in zip(DENSE.astype(np.float64), PRUNED.astype(np.float64), strict=True):
        p, q = np.exp(a) / np.exp(a).sum(), np.exp(b) / np.exp(b).sum()
        kls.append(sum(p * np.log(p / q)))
        cosines.append(a @ b / math.sqrt((a @ a) * (b @ b)))
        errors.append(math.sqrt(((a - b) ** 2).sum() / (a**2).sum()))
        correlations.append(np.corrcoef(a, b)[0, 1])
    assert drift.kl == pytest.approx(np.mean(kls), rel=1e-12)
    assert drift.cosine == pytest.approx(np.mean(cosines), rel=1e-12)
    assert drift.relative_errors == pytest.approx(errors, rel=1e-12)
    assert drift.relative_error == pytest.approx(np.mean(errors), rel=1e-12)
    assert drift.correlation == pytest.approx(np.mean(correlations), rel=1e-12)
    assert drift.top1_agreement == np.mean(DENSE.argmax(1) == PRUNED.argmax(1))
    assert drift.mean_abs_error == pytest.approx(np.abs(DENSE.astype(float) - PRUNED).mean(), rel=1e-12)
    assert drift.worst_sample == NAMES[int(np.argmax(errors))]


@pytest.mark.parametrize("batch", [1, 2, 3, 7])
def test_the_batch_size_changes_nothing(rows: Dataset, batch: int) -> None:
    one = measure_drift(Table(y=DENSE), Table(y=PRUNED), rows)
    many = measure_drift(Table(y=DENSE), Table(y=PRUNED), rows, batch=batch)
    assert len(many["y"].relative_errors) == 7
    assert many == one


def test_equal_outputs_do_not_drift(rows: Dataset) -> None:
    drift = measure_drift(Table(y=DENSE), Table(y=DENSE), rows)["y"]
    assert (drift.kl, drift.top1_agreement, drift.relative_error, drift.mean_abs_error) == (0, 1, 0, 0)
    assert drift.cosine == pytest.approx(1, abs=1e-15)


def test_every_output_is_measured_and_only_logits_have_kl(rows: Dataset) -> None:
    tokens = rng.normal(size=(7, 3, 4)).astype(np.float32)
    drift = measure_drift(Table(logits=DENSE, tokens=tokens), Table(tokens=tokens * 2, logits=PRUNED), rows)
    assert drift["logits"].kl is not None
    assert (drift["tokens"].kl, drift["tokens"].top1_agreement) == (None, None)
    assert drift["tokens"].relative_error == pytest.approx(1)
    assert drift["tokens"].cosine == pytest.approx(1)
    only = measure_drift(
        Table(logits=DENSE, tokens=tokens), Table(tokens=tokens, logits=PRUNED), rows, outputs=["tokens"]
    )
    assert list(only) == ["tokens"]


def test_outputs_of_other_names_are_matched_by_position(rows: Dataset) -> None:
    assert measure_drift(Table(output=DENSE), Table(logits=PRUNED), rows).keys() == {"output"}
    with pytest.raises(ModelError, match="no output to compare: dense has a, pruned has b, c"):
        measure_drift(Table(a=DENSE), Table(b=DENSE, c=DENSE), rows)


def test_a_pruned_output_that_is_not_finite_passes_no_limit(rows: Dataset) -> None:
    broken = PRUNED.copy()
    broken[3, 1] = np.nan
    drift = measure_drift(Table(y=DENSE), Table(y=broken), rows, batch=2)["y"]
    assert drift.kl == drift.relative_error == drift.mean_abs_error == math.inf
    assert drift.worst_sample == "rows.npy[3]"
    whole = measure_drift(Table(y=DENSE), Table(y=PRUNED), rows)["y"]
    assert drift.cosine == pytest.approx(whole.cosine, abs=1 / 7 + 0.01)
    assert drift.cosine < whole.cosine


def test_a_dense_output_that_is_not_finite_is_an_error(rows: Dataset) -> None:
    broken = DENSE.copy()
    broken[3, 1] = np.inf
    with pytest.raises(ModelError, match=r"dense model's output `y` holds NaN or Inf on rows\.npy\[3\]"):
        measure_drift(Table(y=broken), Table(y=DENSE), rows, batch=2)


def test_outputs_of_another_shape_are_an_error(rows: Dataset) -> None:
    with pytest.raises(ModelError, match="output `y` has shape 2x4, expected 2x5"):
        measure_drift(Table(y=DENSE), Table(y=DENSE[:, :4]), rows, batch=2)


def test_zero_and_constant_outputs_have_finite_cosines() -> None:
    meter = DriftMeter("y")
    meter.add(("a", "b"), np.zeros((2, 3), np.float32), np.array([[0, 0, 0], [1, 1, 1]], np.float32))
    drift = meter.drift()
    assert drift.cosine == 0.5
    assert drift.relative_errors == (0.0, math.inf)
    assert drift.correlation == 1.0  # both constant


def test_a_recording_stands_for_its_reference(rows: Dataset) -> None:
    reference = Table(y=DENSE)
    recording = record(reference, rows, batch=3)
    assert reference.runs == 3
    some = rows.subset([6, 1, 4])
    assert measure_drift(recording, Table(y=PRUNED), some, batch=2) == measure_drift(reference, Table(y=PRUNED), some)
    short = record(reference, rows.subset([0, 1]))
    with pytest.raises(DataError, match=r"`table` was not recorded on sample rows\.npy\[2\]"):
        measure_drift(short, Table(y=PRUNED), rows)


def test_nothing_measured_is_an_error(rows: Dataset) -> None:
    with pytest.raises(DataError, match="on no samples"):
        measure_drift(Table(y=DENSE), Table(y=DENSE), rows.subset([]))


def test_logits_are_rows_of_two_or_more_floats() -> None:
    assert logits_like(DENSE)
    assert not logits_like(DENSE[:, :1])
    assert not logits_like(DENSE[None])
    assert not logits_like(DENSE.astype(int))
