"""The job of the recipe `estimator`: measure a device, fit its table, judge the fit, and draw it."""

from __future__ import annotations

import datetime
import json
import logging
from collections.abc import Mapping
from dataclasses import replace

from lightning_nas.estimator import Device, Estimator, Subgraph, judge
from lightning_nas.estimator.device import TABLE_ONLY
from lightning_nas.estimator.files import DEFAULT_LANES, read_device
from lightning_nas.estimator.fit.staircase import curve_subgraphs, curves_in, find_lanes
from lightning_nas.estimator.judge.correction import format_correction
from lightning_nas.estimator.judge.error import format_error
from lightning_nas.estimator.judge.granularity import best_granularity
from lightning_nas.estimator.judge.verdict import Verdict
from lightning_nas.estimator.measure.backend import Backend, available_backend, open_backend, why_unavailable
from lightning_nas.estimator.measure.device_table import measure_device
from lightning_nas.estimator.measurements import read_measurements
from lightning_nas.estimator.share import SUFFIX, pack
from lightning_nas.io.locks import alone
from lightning_nas.io.writing import remove_parts, write_text
from lightning_nas.jobs.estimator_plan import DeviceChoice, EstimatorPlan
from lightning_nas.jobs.estimator_source import DeviceSource, begin_table, open_source
from lightning_nas.jobs.estimator_steps import measured_staircase, rounded, save_record, staircase_record
from lightning_nas.jobs.job_run import JobRun
from lightning_nas.jobs.record import versions
from lightning_nas.report.estimator import EstimatorRecord, estimator_page
from lightning_nas.training.fingerprint import described_device

__all__ = ["EstimatorJob", "build_estimator"]

log = logging.getLogger(__name__)

EITHER = ("vela",)
"""Backends that measure operators or whole subgraphs, as the device says."""

PROBE = Subgraph("conv", 8, 8, 16, 16, 16, kernel=3)
"""Subgraph that is measured before anything is written, so that a backend refuses bad settings early."""

# Granularity is chosen by the first rows of a table.
_MOST_COMPARED = 1500


def build_estimator(run: JobRun, choice: DeviceChoice, plan: EstimatorPlan) -> EstimatorRecord:
    """Measure what is missing, find the lanes, fit, judge and draw; a run that was stopped continues.

    Args:
        run: Where to write, and the seed.
        choice: Which device, and what measures it.
        plan: How much is measured, and how the fit is judged.

    Returns:
        The content of result.json.

    Raises:
        ValueError: No such device, a table that is not valid, or settings that do not fit, before any work; or whole
            networks are off to one side, and no correction mends that: there is a report then, and nothing to use.
        ImportError: The packages of the backend are not installed.
    """
    with open_source(choice) as source:
        job = EstimatorJob(run, choice, plan, source)
        with alone(run.folder / ".lock", f"The run directory {str(run.folder)!r}"):
            remove_parts(run.folder)
            job.begin()
            job.find_lanes()
            if choice.backend is not None:
                job.measure()
            return job.record(job.judged())


class EstimatorJob:
    """One estimator in the making, one method a phase.

    Args:
        run: Where to write, and the seed.
        choice: Which device, and what measures it.
        plan: How much is measured, and how the fit is judged.
        source: What there is of the device.

    Raises:
        ValueError: The backend refuses the settings of the device.
        ImportError: Its packages are not installed.
    """

    def __init__(self, run: JobRun, choice: DeviceChoice, plan: EstimatorPlan, source: DeviceSource) -> None:
        self.run, self.choice, self.plan, self.source = run, choice, plan, source
        width = plan.staircase_width
        self.curves = curve_subgraphs(width) if width is not None else []
        self.backend = _open(source.device, choice.backend is not None, bool(self.curves or plan.num_networks))
        self.device = source.device
        self.table = run.folder / f"{source.device.name}.csv"

    def begin(self) -> None:
        """Continue the table of the run, or copy what there is of the device."""
        choice = self.choice
        begun = {
            "device": described_device(choice.device),
            "backend": choice.backend,
            "settings": choice.settings,
            "seed": self.run.seed,
        }
        self.table = begin_table(self.run.folder, self.source, choice.backend is not None, begun)
        self.device = read_device(self.table.with_suffix(".json"))

    def find_lanes(self) -> None:
        """Find where latency steps with the channels, and decide on the lanes."""
        log.info("Lanes")
        self._find_lanes()

    def measure(self) -> None:
        """Measure the rows that the table lacks, of a new device by the better granularity."""
        assert self.backend is not None
        log.info("Granularity")
        is_new = self.source.table is None and "granularity" not in self.device.record
        if is_new and self.plan.num_networks and self.device.backend in EITHER:
            self._choose_granularity()
            self.backend = open_backend(self.device)
        log.info("Table")
        measure_device(self.device, self.table, self.run.seed, self.plan.num_subgraphs, self.backend)
        if not self.curves:  # the rows that were measured just now may hold one
            self._find_lanes()

    def judged(self) -> Verdict:
        """Fit the table, find out how far the fit is off, and correct it."""
        # `load` takes the lanes and the granularity from this file.
        self.device.save(self.table.with_suffix(".json"))
        log.info("Fit and error")
        estimator = Estimator.load(self.table)
        verdict = judge(estimator, self.plan.num_networks, self.plan.num_folds, self.backend, self.run.folder)
        self.device = verdict.estimator.device
        return verdict

    def record(self, verdict: Verdict) -> EstimatorRecord:
        """Write the files of the run, and return the content of result.json.

        Raises:
            ValueError: The estimator must not be used: the report is written then, and nothing else.
        """
        log.info("Report")
        folder = self.run.folder
        result = self._result(verdict)
        write_text(folder / "report.html", estimator_page(result, verdict, self.staircase))
        if verdict.refusal is not None:
            raise ValueError(f"{verdict.refusal} Network by network: {folder / 'report.html'}")
        self._write_device(result)
        write_text(folder / "result.json", json.dumps(result, indent=1))
        log.info("%s\nWritten to %s", _summary(result, verdict), folder)
        return result

    def _find_lanes(self) -> None:
        if self.backend is not None and self.curves:
            path = self.table.with_name(f"{self.table.stem}_staircase.csv")
            self.staircase = measured_staircase(self.device, self.curves, path, self.backend)
        else:
            rows = read_measurements(self.table).subgraphs if self.table.exists() else {}
            self.staircase = find_lanes(curves_in(rows))
        used = self.choice.lanes or self.source.documented or self.staircase.lanes or DEFAULT_LANES
        log.info("%d lanes. %s", used, self.staircase.reason)
        self.device = replace(self.device, lanes=used)

    def _choose_granularity(self) -> None:
        num_subgraphs = min(self.plan.num_subgraphs or _MOST_COMPARED, _MOST_COMPARED)
        num_networks = min(self.plan.num_networks, _MOST_COMPARED)
        folder = self.table.parent
        is_split, record = best_granularity(self.device, self.table, num_subgraphs, num_networks, folder)
        if is_split != self.device.is_split:
            # Rows of the other granularity are measured anew, under the same name.
            self.table.unlink()
        text = "whole networks are off by {operators:.2%} by operators, by {subgraphs:.2%} by whole subgraphs"
        log.info(text.format(**record).replace("%", " %"))
        known = {**self.device.record, "granularity": rounded(record)}
        self.device = replace(self.device, is_split=is_split, record=known)
        self.device.save(self.table.with_suffix(".json"))

    def _result(self, verdict: Verdict) -> EstimatorRecord:
        device, estimator = self.device, verdict.estimator
        granularity, measured_by = device.record.get("granularity"), device.record.get("measured_by")
        if self.backend is not None:
            measured_by = self.backend.versions()
        return {
            "recipe": self.run.recipe,
            "device": device.name,
            "backend": device.backend,
            "settings": dict(device.settings),
            "seed": self.run.seed,
            "rows": len(estimator.measurements),
            "networks": len(estimator.networks),
            "lanes": {
                "used": device.lanes,
                "documented": self.source.documented,
                "found": self.staircase.lanes,
                "reason": self.staircase.reason,
            },
            "granularity": granularity if isinstance(granularity, Mapping) else None,
            "fit": str(estimator.regressor),
            "correction": None if verdict.correction is None else rounded(verdict.correction),
            "error": {name: rounded(row) for name, row in verdict.error.items()},
            "measured_by": measured_by if isinstance(measured_by, Mapping) else None,
            "file": f"{device.name}{SUFFIX}",
            "versions": versions(),
        }

    def _write_device(self, result: EstimatorRecord) -> None:
        """Write the device with what is known of it, and the file to hand on."""
        known: dict[str, object] = {
            "rows": result["rows"],
            "networks": result["networks"],
            "staircase": staircase_record(self.source.documented, self.staircase),
        }
        if "error" not in self.device.record:
            # What a device was judged by at length is not replaced by less.
            known["error"] = {name: result["error"][name] for name in ("rows", "networks") if name in result["error"]}
        if self.choice.backend is not None:
            known |= {"date": datetime.date.today().isoformat(), "measured_by": result["measured_by"]}
        save_record(self.table, self.device, known)
        pack(self.table, self.table.with_name(result["file"]))


def _open(chip: Device, is_required: bool, is_wanted: bool) -> Backend | None:
    if is_required:
        try:
            measures = open_backend(chip)
            measures.measure_subgraph(PROBE)
        except KeyError as error:
            raise ValueError(f"Device {chip.name!r} lacks the setting {error}, which {chip.backend} needs.") from error
        except (ValueError, RuntimeError) as error:
            raise ValueError(f"Device {chip.name!r} cannot be measured: {error}") from error
        return measures
    if chip.backend == TABLE_ONLY or not is_wanted:
        return None
    measures_here = available_backend(chip)
    if measures_here is None:
        reason = why_unavailable(chip) or f"nothing here measures {chip.name}."
        log.warning("Skipping whole-network and staircase measurements: %s", reason)
    return measures_here


def _summary(result: EstimatorRecord, verdict: Verdict) -> str:
    lines = [f"{result['device']}: {result['rows']} rows, {result['lanes']['used']} lanes. {result['fit']}"]
    lines.append(format_error(verdict.error))
    if verdict.correction is not None:
        lines.append(format_correction(verdict.correction))
    return "\n".join([*lines, f"To hand on: {result['file']}"])
