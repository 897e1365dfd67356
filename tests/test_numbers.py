"""Every number that a user can give is checked where it is given: for being one, being finite, and its range."""

import importlib
import inspect
import json
import math
import pkgutil
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from functools import partial

import numpy as np
import pytest
import torch
from commands import run
from conftest import LinearEstimator, small_network
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import EMAWeightAveraging
from limits import limits_of
from PIL import Image
from plain_loop import Plain, fit, make_supernet, searching
from torch import nn
from torchvision.models import MobileNetV2

import lightning_nas
from lightning_nas.budget import budget
from lightning_nas.budget.budget import Budget
from lightning_nas.data import (
    batch_augment,
    coco,
    detection,
    detection_augment,
    detections,
    digit_detection,
    digit_masks,
    digits,
    image_folder,
    images,
    loading,
    masks,
    pets,
    voc,
    voc_segmentation,
)
from lightning_nas.estimator import Estimator, Subgraph
from lightning_nas.estimator.analytic import AnalyticArray
from lightning_nas.estimator.device import Device
from lightning_nas.estimator.fit.staircase import curve_subgraphs
from lightning_nas.estimator.judge.judge import judge
from lightning_nas.estimator.judge.peak import peak_error
from lightning_nas.estimator.measure import device_table
from lightning_nas.estimator.measure.sampling import sample
from lightning_nas.estimator.measure.settings import checked_settings
from lightning_nas.estimator.measurements import Figures
from lightning_nas.io.numbers import check_number
from lightning_nas.jobs import advice_job, advise, estimator_plan, job_run, plan, rivals
from lightning_nas.jobs.early import try_trainer
from lightning_nas.multishot import evolution as aging
from lightning_nas.search import callback, module, settings, strategy
from lightning_nas.space.block_option import BlockOption
from lightning_nas.space.build import build_space
from lightning_nas.space.curate import curated_widths
from lightning_nas.space.lanes import round_to_lanes
from lightning_nas.space.multiplier import DepthMultiplier
from lightning_nas.space.options import SpaceOptions
from lightning_nas.space.read import space_of
from lightning_nas.space.tied import tied
from lightning_nas.supernet import az_nas, derive, stock, trunk, zico
from lightning_nas.supernet import features as taps
from lightning_nas.tasks import boxes, classification, fcos, miou, optimizing, segmentation, segmenter, ssdlite
from lightning_nas.tasks import detection as detecting
from lightning_nas.tasks import detector as detectors
from lightning_nas.training import csv_logger

# Nobody gives these a number: what calls them has checked it, or has counted it itself. A place, and why.
EXEMPT = {
    "jobs.advice_tables": "of an advice",
    "jobs.advise.Advice.": "a result",
    "estimator.bounds": "a result",
    "jobs.networks.": "checked by what makes the network",
    "jobs.rivals.Rival.": "what was priced",
    "jobs.rivals.stock_rivals.bounds": "each is checked under the name of its cost",
    "supernet.trunk.Tap.": "what was measured",
    "budget.": "of a Budget, which checks itself, and of tables that the package made",
    "io.": "checks others' numbers",
    "jobs.estimator_commands": "run_command has checked them",
    "jobs.early": "tries what is given",
    "jobs.inputs": "FinetunePlan has checked it",
    "jobs.record": "a result",
    "jobs.sized_data": "made of plans, which check themselves",
    "jobs.trainings": "made of plans, which check themselves",
    "jobs.plan.MultishotPlan.latencies": "each becomes a Budget, which checks itself",
    "space.lanes": "of curate, which has checked them",
    "multishot.": "of a study, whose settings are checked",
    "space.architecture": "made by a space, or read from a file and checked there",
    "space.choice": "of a network that was traced",
    "training.": "made by a job, of plans that check themselves",
    "jobs.comparisons": "the seed is the job's",
    "training.csv_logger.CSVLogger.log_": "Lightning gives it",
    "training.csv_logger.CSVLogger.version": "a name",
    "data.detection_batches": "made by a datamodule, of its own settings and of what it read",
    "data.masks.MaskFolderDataModule.classes": "ids, read as those of labels.json are",
    "data.masks.MaskFolderDataModule.ignored": "ids, read as those of labels.json are",
    "data.masks.mask_data.classes": "ids, read as those of labels.json are",
    "data.masks.mask_data.ignored": "ids, read as those of labels.json are",
    "data.loading.loading_of": "makes a Loading, which checks itself",
    "data.detections.detection_data.loading": "makes a Loading, which checks itself",
    "data.images.image_data.loading": "makes a Loading, which checks itself",
    "data.masks.mask_data.loading": "makes a Loading, which checks itself",
    "data.pets.pets_data.loading": "makes a Loading, which checks itself",
    "data.voc.voc_data.loading": "makes a Loading, which checks itself",
    "data.voc_segmentation.voc_segmentation_data.loading": "makes a Loading, which checks itself",
    "estimator.fit.additive": "a fit",
    "estimator.analytic.systolic_cycles": "a formula",
    "estimator.judge.correction": "a fit",
    "estimator.estimator.Estimator.memory": "`dtype` is a name",
    "estimator.device": "read from a file, and checked there",
    "estimator.files": "Estimator.load has checked them",
    "estimator.judge.granularity": "build_estimator has checked them",
    "estimator.judge.held_out": "judge has checked them",
    "estimator.fit.interval": "a level is one of a few, and so checked as a name",
    "graph.block": "made by the tracer",
    "graph.channels": "made by the tracer",
    "graph.edits": "of a network that was traced",
    "graph.elastic": "of a network that was traced",
    "graph.group_check.checked_groups.seed": "of NumPy's generator, which checks it",
    "graph.kernels": "`refusal` says what cannot be",
    "graph.label": "made by the tracer",
    "graph.layer": "made by the tracer",
    "graph.narrowing": "of width groups, which were found",
    "graph.operation_log": "made by the tracer",
    "graph.module_calls": "made by the tracer",
    "graph.structures": "of a network that was traced",
    "graph.width_groups": "made by the tracer",
    "graph.liveness": "two layouts that the package has",
    "estimator.measure.backends.flatfile": "writes what the package made",
    "estimator.measure.sampling.chain_networks": "drawn by sample_chain; subgraphs check themselves",
    "estimator.measure.sampling.random_networks": "judge has checked them",
    "estimator.measure.backends.onnxfile": "writes what the package made",
    "estimator.measure.sampling.sample.sample_subgraphs": "measure_device has checked them",
    "estimator.measure.backends.timing": "checked_settings has checked them",
    "estimator.measure.sampling.random_blocks": "measure_device has checked them",
    "graph.memory": "a result, and `dtype` is a name",
    "graph.network": "made by the tracer",
    "estimator.judge.error.format_error": "says a result",
    "estimator.judge.peak.format_peak": "says a result",
    "estimator.fit.forest": "a fit",
    "jobs.estimator_source": "read from files, or checked by DeviceChoice",
    "jobs.estimator_steps": "checked by DeviceChoice or Device, or a result",
    "estimator.fit.regressor": "a fit",
    "estimator.fit.staircase.Curve": "made of a table",
    "estimator.fit.staircase.Staircase": "a result",
    "estimator.judge.verdict": "a result",
    "estimator.judge.whole_networks": "judge has checked them",
    "report.": "of a run's own results",
    "budget.budget.resolve_budget.source": "a cost of the space",
    "search.hooks.SearchHooks.on_": "Lightning gives it",
    "search.module.SearchModule.on_": "Lightning gives it",
    "search.module.SearchModule.training_step": "Lightning gives it",
    "search.": "of a search, whose settings and budgets are checked",
    "space.nodes": "of a space",
    "space.spec.SearchSpace.member": "of a space",
    "space.spec.SearchSpace.options": "`decode` checks them",
    "space.spec.SearchSpace.widths": "`decode` checks them",
    "space.spec.SearchSpace.with_hidden": "of a space",
    "space.table.space_table": "of a space",
    "graph.sizes": "a formula",
    "supernet.": "made by supernet_from, of a space that is checked",
    "tasks.detector.Detector": "features checks the taps whenever it runs",
    "tasks.detection_head": "sizes of the batch",
    "tasks.distillation": "a task has checked it",
    "tasks.metric": "a result",
    "tasks.mixup": "a task has checked it",
    "tasks.teaching": "a task hands it what it checks by check_teaching",
    "tasks.classification.Classification.": "Lightning gives it",
    "tasks.detection.Detection.": "Lightning gives it",
    "tasks.fcos.FCOSHead.": "sizes of the batch, and what `pick` checks",
    "tasks.segmentation.Segmentation.": "Lightning gives it",
    "tasks.segmentation.mask_loss": "a task has checked it",
    "tasks.segmenter.Segmenter": "features checks the taps whenever it runs",
    "tasks.ssdlite.SSDLiteHead.": "sizes of the batch, and what `pick` checks",
}


@dataclass
class Row:
    """A callable with valid arguments, and for each number among them one that is below its range."""

    call: typing.Callable
    below: dict
    given: dict = field(default_factory=dict)
    called: dict = field(default_factory=dict)  # what a message calls a parameter, where that is not its name


LOADED = {"batch_size": 0, "num_workers": -1, "seed": -1}
AUGMENTED = {"min_crop_area": 0, "color_jitter": -0.1}
TASK = {"num_classes": 0, "lr": 0, "weight_decay": -0.1, "warmup_fraction": -0.1}
STRATEGY = {"num_samples": 1, "lr": 0, "beta1": -0.1, "rho": -0.1, "eta": -0.1}
TRAINING = {"prior": -0.1, "budget_use": -0.1, "seed": -1}
BUDGET = {"latency": -0.5, "parameters": 0, "peak_activations": "-1KiB"}


def made(group):
    """Return what a group of settings cannot do without."""
    return {name: None for name, one in inspect.signature(group).parameters.items() if one.default is one.empty}


def rows(folders, search):
    image = torch.zeros(1, 3, 32, 32)
    record = detection.DetectionRecord(torch.zeros(3, 32, 32, dtype=torch.uint8), (32, 32), torch.zeros(0, 4), image)
    space = space_of(small_network(), image)
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
    head = {"in_widths": (16, 24), "strides": (16, 32), "num_classes": 2}
    plain = {"in_widths": 0, "strides": 0, "num_classes": 0, "width": 0}
    light = {"low_width": 8, "high_width": 16, "num_classes": 2, "width": 8, "enlargement": 4}
    supernet, chip = make_supernet(), Estimator.load("analytic_array")
    return {
        "training.csv_logger.CSVLogger": Row(
            csv_logger.CSVLogger, {"flush_logs_every_n_steps": 0}, {"save_dir": folders, "name": "logs"}
        ),
        "data.batch_augment.BatchAugmentation": Row(batch_augment.BatchAugmentation, AUGMENTED),
        "data.coco.CocoDataModule": Row(
            coco.CocoDataModule,
            {"image_size": 0},
            {"root": folders / "coco"},
        ),
        "data.detection.DetectionDataModule": Row(
            detection.DetectionDataModule,
            {"image_size": 0},
            {"records": {"train": [record], "val": [record]}, "class_names": ["box"], "image_size": (32, 32)},
        ),
        "data.detection_augment.DetectionAugmentation": Row(
            detection_augment.DetectionAugmentation, {**AUGMENTED, "zoom_out": 0.5}
        ),
        "data.detections.detection_data": Row(detections.detection_data, {"image_size": 0, **LOADED}),
        "data.digit_detection.DigitDetectionDataModule": Row(
            digit_detection.DigitDetectionDataModule,
            {"image_size": 0, **LOADED, "scenes_per_digit": 0, "max_digits": 0},
        ),
        "data.digit_masks.DigitMasksDataModule": Row(
            digit_masks.DigitMasksDataModule,
            {"image_size": 0, **LOADED, "scenes_per_digit": 0, "max_digits": 0, "fractions": 0},
            {"fractions": (0.6, 0.2, 0.2)},
        ),
        "data.digits.DigitScenes": Row(
            digits.DigitScenes,
            {"image_size": 0, "seed": -1, "scenes_per_digit": 0, "max_digits": 0, "fractions": 0},
            {"fractions": (0.6, 0.2, 0.2)},
        ),
        "data.digits.DigitsDataModule": Row(
            digits.DigitsDataModule,
            {"image_size": 0, **LOADED, "scenes_per_digit": 0, "fractions": 0},
            {"fractions": (0.6, 0.2, 0.2)},
        ),
        "data.image_folder.ImageFolderDataModule": Row(
            image_folder.ImageFolderDataModule,
            {"image_size": 0},
            {"root": folders / "nowhere"},
        ),
        "data.images.image_data": Row(
            images.image_data,
            {"image_size": 0, "min_crop_area": 0, **LOADED},
            {"root": folders / "nowhere"},
        ),
        "data.masks.MaskFolderDataModule": Row(
            masks.MaskFolderDataModule,
            {"image_size": 0, "mask_size": 0},
            {"root": folders / "masks"},
        ),
        "data.masks.mask_data": Row(
            masks.mask_data,
            {"image_size": 0, "mask_size": 0, "min_crop_area": 0, **LOADED},
            {"root": folders / "masks"},
        ),
        "data.voc.VocDetectionDataModule": Row(
            voc.VocDetectionDataModule,
            {"year": 0, "image_size": 0},
            {"root": folders / "nowhere"},
        ),
        "data.loading.Loading": Row(loading.Loading, {**LOADED, "cache_limit_bytes": -1}),
        "data.pets.PetsDataModule": Row(
            pets.PetsDataModule, {"image_size": 0, "mask_size": 0}, {"root": folders / "nowhere"}
        ),
        "data.pets.pets_data": Row(
            pets.pets_data,
            {"image_size": 0, "mask_size": 0, "min_crop_area": 0, **LOADED},
            {"root": folders / "nowhere"},
        ),
        "data.voc.voc_data": Row(voc.voc_data, {"year": 0, "image_size": 0, **LOADED}, {"root": folders / "nowhere"}),
        "data.voc_segmentation.VOCSegmentationDataModule": Row(
            voc_segmentation.VOCSegmentationDataModule,
            {"year": 0, "image_size": 0, "mask_size": 0},
            {"root": folders / "nowhere"},
        ),
        "data.voc_segmentation.voc_segmentation_data": Row(
            voc_segmentation.voc_segmentation_data,
            {"year": 0, "image_size": 0, "mask_size": 0, "min_crop_area": 0, **LOADED},
            {"root": folders / "nowhere"},
        ),
        "estimator.analytic.AnalyticArray": Row(
            AnalyticArray, {"lanes": 0, "rows": 0, "columns": 0, "clock_hz": 0, "dram_bytes_per_s": 0}
        ),
        "estimator.estimator.Estimator.load": Row(Estimator.load, {"lanes": 0}, {"name_or_path": "ethos_u85_1024"}),
        "estimator.estimator.Estimator": Row(
            lambda **settings: Estimator.load("analytic_array", settings=settings),
            {"rows": 0, "columns": 0, "clock_hz": 0, "dram_bytes_per_s": 0},
        ),
        "estimator.estimator.Estimator.interval_ms": Row(chip.interval_ms, {"level": 0}, {"subgraphs": []}),
        "estimator.estimator.Estimator.total_interval_ms": Row(
            chip.total_interval_ms, {"level": 0}, {"subgraphs": [Subgraph("conv", 8, 8, 8, 8, 8)]}
        ),
        "estimator.estimator.Estimator.latency_interval_ms": Row(
            chip.latency_interval_ms, {"level": 0}, {"network": space.decode(space.reference_encoding)}
        ),
        "estimator.judge.judge.judge": Row(judge, {"num_subnets": -1, "num_folds": 1}, {"estimator": None}),
        "estimator.measure.device_table.measure_device": Row(
            device_table.measure_device, {"seed": -1, "num_subgraphs": 0}, {"device": None, "table": None}
        ),
        "estimator.measure.sampling.sample.plan_subgraphs": Row(
            sample.plan_subgraphs, {"seed": -1, "num_subgraphs": 0}, {"seed": 0, "num_subgraphs": 40}
        ),
        "estimator.measure.settings.checked_settings": Row(
            lambda **given: checked_settings(
                Device("cpu", "torch", 8, settings=given), {"threads": 1, "window_ms": 20.0}
            ),
            {"threads": 0, "window_ms": 0},
        ),
        "estimator.measurements.Figures": Row(
            Figures, {"latency_ms": 0, "sram_bytes": -1, "spread": -0.1}, {"latency_ms": 1.0}
        ),
        "estimator.judge.peak.peak_error": Row(peak_error, {"num_networks": 0}, {"device": None}),
        "estimator.fit.staircase.curve_subgraphs": Row(curve_subgraphs, {"last_width": 63}),
        "graph.subgraph.Subgraph": Row(
            Subgraph,
            dict.fromkeys(("height", "width", "in_channels", "hidden_channels", "out_channels", "kernel", "stride"), 0),
            {"kind": "conv", **dict.fromkeys(("height", "width", "in_channels", "hidden_channels", "out_channels"), 8)},
        ),
        "jobs.advise.advise_on": Row(
            advise.advise_on, {"most_harm": -1}, {"model": None, "example_input": None, "estimator": None}
        ),
        "jobs.job_run.JobRun": Row(
            job_run.JobRun, {"seed": -1}, {"recipe": "", "output_dir": folders / "run", "seed": 0}
        ),
        "jobs.advice_job.AdvicePlan": Row(
            advice_job.AdvicePlan, {"image_size": 0, "num_classes": 0, "num_images": -1, "most_harm": -0.1}
        ),
        "jobs.estimator_plan.DeviceChoice": Row(estimator_plan.DeviceChoice, {"lanes": 0}, {"device": "nothing"}),
        "jobs.estimator_plan.EstimatorPlan": Row(
            estimator_plan.EstimatorPlan,
            {"num_subgraphs": 19, "num_networks": -1, "num_folds": 1, "staircase_width": 63},
        ),
        "jobs.plan.Epochs": Row(
            plan.Epochs,
            dict.fromkeys(("source", "search", "finetune"), -1),
            dict.fromkeys(("source", "search", "finetune"), 1),
        ),
        "budget.budget.Budget": Row(Budget, BUDGET),
        "jobs.plan.Run": Row(plan.Run, {"seed": -1}, made(plan.Run)),
        "jobs.plan.SearchPlan": Row(plan.SearchPlan, {"num_trial_images": -1}, made(plan.SearchPlan)),
        "jobs.plan.MultishotPlan": Row(
            plan.MultishotPlan,
            {"image_sizes": 0, "num_trial_images": -1, "finalists": 0},
            {**made(plan.MultishotPlan), "image_sizes": (32,)},
        ),
        "jobs.plan.FinetunePlan": Row(plan.FinetunePlan, {"num_refitted": 0, "num_calibration_batches": 0}),
        "multishot.evolution.Evolution": Row(
            aging.Evolution,
            {
                **dict.fromkeys(("trials", "population", "tournament", "rungs"), 0),
                **{"crossover": -0.1, "floor": -0.1, "eta": 1.0, "stale_seconds": 0},
            },
            {"trials": 8, "rungs": (1, 2)},
        ),
        "budget.budget.resolve_budget": Row(
            budget.resolve_budget,
            {"value": "-0.5x"},
            {"value": "0.5x", "source": 1.0, "name": "latency_ms"},
            {"value": "latency"},
        ),
        "search.callback.ArchitectureSearch": Row(
            partial(callback.ArchitectureSearch, LinearEstimator()),
            {"latency": -0.5, "serves": "-0.5x"},
            {"latency": "0.5x", "serves": ("0.5x",)},
        ),
        "search.callback.ArchitectureSearch.find": Row(search.find, {"latency": -0.5}),
        "search.callback.ArchitectureSearch.frontier": Row(search.frontier, {"count": 1}),
        "search.callback.ArchitectureSearch.derive": Row(
            partial(search.derive, search.state.fitted().module), {"num_batches": 0, "latency": -0.5}
        ),
        "search.module.SearchModule": Row(
            module.SearchModule,
            {"latency": "-0.5x"},
            {"network": supernet, "criterion": None, "estimator": LinearEstimator()},
        ),
        "search.strategy.Strategy": Row(strategy.Strategy, STRATEGY),
        **{
            f"search.strategy.{name}": Row(getattr(strategy, name), STRATEGY)
            for name in strategy.__all__
            if name != "Strategy"
        },
        "search.settings.PathSampling": Row(
            settings.PathSampling, {"uniform": -0.1, "band": -0.1, "pool": 0}, {"band": (0.7, 1.3)}
        ),
        "search.settings.SupernetTraining": Row(settings.SupernetTraining, TRAINING),
        "search.settings.Joint": Row(settings.Joint, {**TRAINING, "warmup": -0.1, "every": 0}),
        "search.settings.Decoupled": Row(settings.Decoupled, {**TRAINING, "steps": 0}),
        "search.settings.ZeroShot": Row(
            settings.ZeroShot,
            {"num_members": 0, "num_images": 3, "num_fitted_images": -1, "budget_use": -0.1, "seed": -1},
        ),
        "search.settings.Selection": Row(
            settings.Selection,
            {
                **{"num_candidates": 0, "num_evaluations": -1, "num_random_subnets": -1, "size_weight": -0.1},
                **{"num_brief_trainings": -1, "brief_epochs": 0, "effort": 0},
            },
        ),
        "space.curate.curated_widths": Row(
            curated_widths, {"full": 0, "ratios": 0, "lanes": 0}, {"full": 16, "ratios": (0.5, 1.0), "lanes": 8}
        ),
        "space.curate.round_to_lanes": Row(round_to_lanes, {"width": 0, "lanes": 0}, {"width": 16, "lanes": 8}),
        "space.multiplier.DepthMultiplier": Row(
            DepthMultiplier, {"groups": -1, "widths": 0}, {"name": "stem", "groups": (0,), "widths": ((8,), (16,))}
        ),
        "space.block_option.BlockOption": Row(
            BlockOption, {"expansion": 0, "kernel": 0}, {"kind": "ibn", "expansion": 4, "kernel": 3}
        ),
        "space.spec.SearchSpace.curate": Row(space.curate, {"device": 0}, {}, {"device": "lanes"}),
        "space.spec.SearchSpace.decode": Row(space.decode, {"encoding": -1}, {"encoding": space.reference_encoding}),
        "space.options.SpaceOptions": Row(
            SpaceOptions,
            dict.fromkeys(("ratios", "widths", "expansions", "kernels"), 0),
            {"ratios": (0.5, 1.0), "widths": {"features.0*": [8]}, "expansions": (2, 4), "kernels": (3, 5)},
        ),
        "space.build.build_space": Row(
            build_space, {"lanes": 0}, {"network": space.network, "blocks": (), "residuals": ()}
        ),
        "space.tied.tied": Row(tied, {"most": 0}, {"space": space}),
        "space.read.space_of": Row(space_of, {"lanes": 0}, {"model": small_network(), "example_input": image}),
        "supernet.az_nas.block_scores": Row(
            az_nas.block_scores, {"seed": -1}, {"network": small_network(), "images": image.expand(4, -1, -1, -1)}
        ),
        "supernet.zico.zico": Row(
            zico.zico, {"seed": -1}, {"network": small_network(), "images": image.expand(4, -1, -1, -1)}
        ),
        "supernet.derive.derive": Row(
            derive,
            {"architecture": -1},
            {"module": supernet, "architecture": space.reference_encoding},
            {"architecture": "encoding"},
        ),
        "supernet.stock.stock_network": Row(
            stock.stock_network,
            {"num_classes": -1, "width_mult": -1, "dropout": -0.1},
            {"name": "mobilenet_v2", "num_classes": 2},
        ),
        "supernet.trunk.limit_trunk": Row(
            trunk.limit_trunk, {"stride": 0}, {"trunk": nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1)), "stride": 2}
        ),
        "jobs.rivals.best_rival": Row(
            rivals.best_rival,
            {"budget_ms": 0},
            {"rivals": [], "make": None, "example_input": image, "estimator": LinearEstimator(), "budget_ms": 1.0},
        ),
        "tasks.boxes.pick": Row(
            boxes.pick,
            {"size": 0, "threshold": -0.1, "iou": -0.1},
            {"scores": torch.zeros(1, 1), "boxes": torch.zeros(1, 4), "size": (8, 8), "threshold": 0.1, "iou": 0.5},
        ),
        "tasks.classification.Classification": Row(
            partial(classification.Classification, network),
            {
                **TASK,
                **{"label_smoothing": -0.1, "distillation_weight": -0.1, "temperature": 0, "feature_weight": -0.1},
                "mixup": -0.1,
            },
            {"num_classes": 3},
        ),
        "tasks.detection.Detection": Row(
            partial(detecting.Detection, network),
            {**TASK, "distillation_weight": -0.1, "feature_weight": -0.1},
            {"num_classes": 3},
        ),
        "tasks.detector.detector": Row(
            detectors.detector, {"num_classes": 0, "width_mult": -1}, {"num_classes": 1, "head": "ssdlite"}
        ),
        "tasks.fcos.FCOSHead": Row(fcos.FCOSHead, {**plain, "depth": -1}, head),
        "supernet.features.features": Row(
            taps.features, {"taps": -1}, {"backbone": MobileNetV2(), "images": image, "taps": (3, 6)}
        ),
        "supernet.features.limit_stride": Row(
            taps.limit_stride, {"stride": 0}, {"backbone": MobileNetV2(), "stride": 16}
        ),
        "supernet.features.strides_to_taps": Row(
            taps.strides_to_taps, {"strides": 0}, {"backbone": MobileNetV2(), "strides": (8, 16)}
        ),
        "supernet.features.tap_widths": Row(taps.tap_widths, {"taps": -1}, {"backbone": MobileNetV2(), "taps": (3, 6)}),
        "tasks.miou.MeanIoU": Row(miou.MeanIoU, {"num_classes": 0}),
        "tasks.optimizing.Optimizing": Row(
            optimizing.Optimizing,
            {"lr": 0, "weight_decay": -0.1, "warmup_fraction": -0.1},
            {"optimizer": "sgd", "lr": 0.1, "weight_decay": 0.0, "warmup_fraction": 0.1},
        ),
        "tasks.segmentation.Segmentation": Row(
            partial(segmentation.Segmentation, network),
            {
                **TASK,
                **{"label_smoothing": -0.1, "class_weights": 0, "distillation_weight": -0.1, "temperature": 0},
                **{"feature_weight": -0.1, "cutmix": -0.1},
            },
            {"num_classes": 2, "class_weights": (1.0, 1.0)},
        ),
        "tasks.segmenter.DeepLabV3LiteHead": Row(
            segmenter.DeepLabV3LiteHead, {**dict.fromkeys(light, 0), "rates": 0}, {**light, "rates": (1, 2)}
        ),
        "tasks.segmenter.LRASPPHead": Row(segmenter.LRASPPHead, dict.fromkeys(light, 0), light),
        "tasks.segmenter.segmenter": Row(
            segmenter.segmenter,
            {"num_classes": 1, "width_mult": 0, "head_width": 0, "output_stride": 0, "backbone_stride": 0},
            {"num_classes": 2},
        ),
        "tasks.ssdlite.SSDLiteHead": Row(ssdlite.SSDLiteHead, {**plain, "extra": -1}, head),
    }


def is_number(hint):
    """Return whether a value of an annotated type may be a number, or hold some."""
    if isinstance(hint, str):
        return "int" in hint or "float" in hint
    return hint in (int, float) or any(map(is_number, typing.get_args(hint)))


def parameters(function):
    """Return the parameters of a function or class that are annotated as numbers."""
    try:
        found = inspect.signature(function).parameters
    except ValueError:
        return []  # an alias of one of Python's own
    owner = (
        function.__init__ if inspect.isclass(function) and "__dataclass_fields__" not in vars(function) else function
    )
    try:
        hints = typing.get_type_hints(owner)
    except (NameError, TypeError):
        hints = {name: parameter.annotation for name, parameter in found.items()}
    return [name for name in found if is_number(hints.get(name))]


def public():
    """Yield the parameters that are numbers of whatever the package's modules name in `__all__`, and of its methods."""
    for info in pkgutil.walk_packages(lightning_nas.__path__, "lightning_nas."):
        place = info.name.removeprefix("lightning_nas.")
        if place.rpartition(".")[2].startswith("_"):
            continue
        try:
            found = importlib.import_module(info.name)
        except ImportError:
            continue  # needs an extra that is not installed
        for name in getattr(found, "__all__", ()):
            one = getattr(found, name)
            if isinstance(one, types.GenericAlias) or getattr(one, "__module__", "") != info.name:
                continue
            if inspect.isfunction(one) or inspect.isclass(one):
                yield f"{place}.{name}", parameters(one)
            for method, function in vars(one).items() if inspect.isclass(one) else ():
                function = getattr(function, "__func__", function)
                if inspect.isfunction(function) and not method.startswith("_"):
                    yield f"{place}.{name}.{method}", parameters(function)


def put(value, bad):
    """Return what was given with a bad number in the place of the first one, at whatever depth."""
    if isinstance(value, Mapping):
        return {key: put(one, bad) for key, one in value.items()}
    return (put(value[0], bad), *value[1:]) if isinstance(value, tuple | list) and value else bad


def fails(row, name, bad, said=None):
    """Return in words what is wrong with the answer to a bad number; nothing where it is refused by its name."""
    said = said or row.called.get(name, name)
    try:
        row.call(**{**row.given, name: put(row.given.get(name), bad)})
    except ValueError as error:
        return "" if said in str(error) else f"{name}={bad!r}: {error}"
    except Exception as error:
        return f"{name}={bad!r}: {type(error).__name__}: {error}"
    return f"{name}={bad!r} is accepted"


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    folders = tmp_path_factory.mktemp("data")
    mask = (np.arange(16 * 16).reshape(16, 16) % 2).astype(np.uint8)
    picture = np.stack([mask] * 3, axis=2)
    for split in ("train", "val"):
        for folder, content in (("masks/images", picture), ("masks/masks", mask), ("coco/images", picture)):
            (folders / folder / split).mkdir(parents=True)
            Image.fromarray(content).save(folders / folder / split / "0.png")
        (folders / "coco" / "annotations").mkdir(exist_ok=True)
        one = {"image_id": 0, "category_id": 0, "bbox": [1, 1, 9, 9]}
        content = {"images": [{"id": 0, "file_name": "0.png"}], "annotations": [one]}
        content["categories"] = [{"id": 0, "name": "box"}]
        (folders / "coco" / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    search = searching()
    fit(Plain(), search, folders)
    return rows(folders, search)


def test_each_number_of_the_public_api_is_in_the_table(table):
    places = {place: names for place, names in public() if names}
    given = {f"{place}.{name}": place for place, names in places.items() for name in names}
    rows = {f"{place}.{name}" for place, row in table.items() for name in row.below}
    exempt = {name for name, place in given.items() if place not in table or name in EXEMPT}
    exempt = {name for name in exempt if any(name.startswith(part) for part in EXEMPT)}
    assert sorted(given.keys() - rows - exempt) == []
    assert [part for part in EXEMPT if not any(name.startswith(part) for name in exempt)] == []


def test_what_is_no_number_and_what_is_out_of_range_is_refused_by_name(table):
    wrong = []
    for place, row in table.items():
        for name, below in row.below.items():
            found = [fails(row, name, bad) for bad in (math.nan, math.inf, -math.inf, below)]
            wrong += [f"{place}: {said}" for said in found if said]
    assert wrong == []


@pytest.mark.parametrize("number", [np.float64(0.5), np.float32(0.5), torch.tensor(0.5), Fraction(1, 2), 1])
def test_scalars_of_other_packages_are_numbers(number):
    check_number("lr", number, above=0, most=1)
    with pytest.raises(ValueError, match="`lr` must be at least 2; got"):
        check_number("lr", number, least=2)


@pytest.mark.parametrize("number", [3, np.int64(3), np.uint8(3), torch.tensor(3)])
def test_whole_scalars_of_other_packages_are_whole_numbers(number):
    check_number("every", number, whole=True, least=1)


@pytest.mark.parametrize("value", ["1", None, True, np.True_, torch.tensor(True), math.nan, 10**400, [1], np.ones(2)])
def test_what_is_no_finite_number_is_refused(value):
    with pytest.raises(ValueError, match="`lr` must be a finite number at least 0 and below 1; got"):
        check_number("lr", value, least=0, below=1)


@pytest.mark.parametrize("value", [0.5, 1.0, "1", True, math.inf, np.float64(2)])
def test_what_is_no_whole_number_is_refused(value):
    with pytest.raises(ValueError, match="`every` must be a whole number at least 1; got"):
        check_number("every", value, whole=True, least=1)


def test_whole_numbers_beyond_64_bits_are_refused():
    with pytest.raises(ValueError, match="`every` must be at most 9223372036854775807; got 1180591620717411303424"):
        check_number("every", 2**70, whole=True, least=1)


def test_a_served_latency_that_binds_nothing_is_refused(tmp_path):
    search = callback.ArchitectureSearch(LinearEstimator(), latency="0.6x", serves=("0.5x", "5x"))
    with pytest.raises(ValueError, match=r"`serves` holds '5x', and latency_ms=.* binds nothing: the dearest"):
        fit(Plain(), search, tmp_path)


def test_a_served_latency_above_the_source_is_told_of(caplog):
    space = make_supernet().supernet.space
    found = limits_of(space, LinearEstimator(), Budget(latency="0.6x"), serves=("1.5x",))
    assert found.serves == pytest.approx([1.5 / 0.6 * found.costs[0].budget])
    assert "`serves` holds '1.5x', which the source network keeps itself" in caplog.text


@pytest.mark.parametrize(
    ("averaging", "trainer", "said"),
    [
        ({"decay": 2.0}, {}, "`averaging` is not valid: Invalid decay value 2.0"),
        ({"decay": math.nan}, {}, "`averaging.decay` must be a finite number; got nan"),
        ({}, {"limit_val_batches": math.nan}, "`trainer.limit_val_batches` must be a finite number; got nan"),
        ({}, {"limit_train_batches": -1}, "`trainer` is not valid: .*limit_train_batches"),
        ({}, {"devices": 0}, "`trainer` is not valid: "),
        ({}, {"limit_val_batches": 0, "limit_train_batches": 0}, "`trainer.limit_train_batches` must be more than 0"),
    ],
)
def test_numbers_of_lightning_are_refused_in_a_sentence(averaging, trainer, said):
    with pytest.raises(ValueError, match=said):
        try_trainer(partial(Trainer, accelerator="cpu", **trainer), partial(EMAWeightAveraging, **averaging))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["digits", "task.lr=nan"], "`lr` must be a finite number above 0; got nan."),
        (["digits", "epochs.search=1e9"], "`epochs.search` must be a whole number; got 1000000000.0."),
        (["digits", "seed=-1"], "`seed` must be between 0 and 4294967295; got -1."),
    ],
)
def test_numbers_on_the_command_line_end_with_a_sentence(tmp_path, arguments, said):
    recipe, *overrides = arguments
    done = run(tmp_path, "--config-name", recipe, f"hydra.run.dir={tmp_path / 'run'}", *overrides)
    assert (done.returncode, said in done.stderr) == (2, True), done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()
