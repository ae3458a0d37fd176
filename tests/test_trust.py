"""Reports on calibrations, against counts by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tessera.documents.calibration import EVIDENCE, Calibration, Sample, fit
from tessera.documents.record import Field
from tessera.labels import by_path
from tessera.trust import report_of, samples_of

ZEROS = (0.0,) * (len(EVIDENCE) - 1)


def test_a_row_of_which_nothing_is_told_is_no_label() -> None:
    assert by_path({"items": [{}, {"name": "Tea"}], "seller": {}}) == {"items[1].name": "Tea"}


def test_labels_are_true_values_by_path() -> None:
    value = {"vendor": "Acme", "items": [{"name": "Tea", "price": 2}], "empty": []}
    assert by_path(value) == {"vendor": "Acme", "items[0].name": "Tea", "items[0].price": 2, "empty": []}


def test_samples_compare_what_is_meant() -> None:
    def field(path: str, value: object, evidence: tuple[float, ...] = (1.0,)) -> Field:
        return Field(path, value, str(value), "found", 0.9, evidence=evidence)

    fields = [field("total", "1.234,50"), field("items[1].name", "Tea"), field("date", "x", ()), field("other", "y")]
    found = samples_of("d", fields, {"total": 1234.5, "items[1].name": "Coffee", "date": "x"})
    assert [(each.kind, each.right) for each in found] == [("total", True), ("items[].name", False)]


def test_a_report_counts_and_measures_held_out_confidences() -> None:
    samples = [Sample(f"d{n // 2}", "a" if n % 2 else "b", (0.0, *ZEROS), n != 0) for n in range(10)]
    held = tuple((0.1 if n == 0 else 0.9, n != 0) for n in range(10))
    calibration = Calibration("m", (), (), (), held_out=held)
    report = report_of(calibration, samples)
    assert (report.documents, report.fields, report.right) == (5, 10, 9)
    assert report.kinds == {"a": (5, 5), "b": (5, 4)}
    assert report.numbers["AUROC"].value == 1.0
    assert report.numbers["Brier score"].value == pytest.approx(0.01)
    assert report.numbers["wrong fields caught at 20% reviewed"].value == 1.0
    assert report.numbers["coverage at 1% error"].value == 0.9
    assert report.before["Brier score"].value == pytest.approx(0.25)  # evidence of log-odds 0: scores of one half
    text = report.markdown()
    assert "10 fields, 9 of them right (90.0%)" in text
    assert "At most 1% wrong: these labels do not show it" in text


def test_a_report_of_fields_that_are_all_right_has_no_auroc() -> None:
    samples = [Sample(f"d{n}", "a", (0.0, *ZEROS), True) for n in range(4)]
    report = report_of(Calibration("m", (), (), (), held_out=((0.9, True),) * 4), samples)
    assert math.isnan(report.numbers["AUROC"].value)
    assert report.as_json()["numbers"]["AUROC"] == [None, None, None]
    assert report.as_json()["before"]["Brier score"] == [0.25, 0.25, 0.25]
    assert "| AUROC | none | none |" in report.markdown()


def test_a_report_shows_the_calibration_error_before_and_after() -> None:
    """Scores that claim 95 % where half is right are off by 0.45, and calibrated ones nearly right."""
    odds = math.log(0.95 / 0.05)
    samples = [Sample(f"d{n}", "total", (odds, *ZEROS), n % 2 == 0) for n in range(200)]
    report = report_of(fit(samples, "m"), samples)
    assert report.before["calibration error (ECE)"].value == pytest.approx(0.45)
    assert report.numbers["calibration error (ECE)"].value < 0.2  # bins of 20: 0.09 by chance alone
    assert "| calibration error (ECE) | 0.450 (" in report.markdown()


def test_on_known_chances_the_calibration_error_is_small_and_thresholds_hold() -> None:
    random = np.random.default_rng(2)
    samples = []
    for number in range(1500):
        x = random.normal(1.5, 2)
        samples.append(Sample(f"d{number // 5}", "total", (x, *ZEROS), bool(random.uniform() < 1 / (1 + math.exp(-x)))))
    report = report_of(fit(samples, "m"), samples)
    assert report.numbers["calibration error (ECE)"].value < 0.05
    threshold, share = report.thresholds[0.05]
    assert threshold is not None
    above = [each.right for each in samples if 1 / (1 + math.exp(-each.evidence[0])) >= threshold]
    assert above.count(False) / len(above) < 0.07
    assert share == pytest.approx(len(above) / len(samples), abs=0.1)


def test_a_field_with_a_bar_in_its_name_is_one_cell() -> None:
    samples = [Sample(f"d{n}", "net|gross", (0.0, *ZEROS), n > 0) for n in range(4)]
    report = report_of(Calibration("m", (), (), (), held_out=((0.9, True),) * 4), samples)
    assert "| net&#124;gross | 4 | 75.0% |" in report.markdown()
