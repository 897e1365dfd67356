"""`RunRecord` and `ProvenanceRecord`: what a run found and how it was made, as its files hold it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

from lightning_nas.report.fields import Fields
from lightning_nas.report.network_record import BudgetRecord, ComparisonRecord, NetworkRecord
from lightning_nas.report.search_record import SearchRecord

__all__ = ["EpochsRecord", "FusingRecord", "ProvenanceRecord", "RunRecord"]

_RESULT_FIELDS = ("recipe", "device", "seed", "budget", "baseline", "subnet")
_INTERFACE = ("classes", "preprocessing")


@dataclass(frozen=True)
class FusingRecord:
    """What fusing inverted bottlenecks of the source would have cost, at its own widths.

    Attributes:
        all_ms: Latency with all of them fused.
        where_faster_ms: Latency with those fused where the estimator says that it pays.
        blocks: The latter's paths; in records before 2026-11-30 their numbers, counted from 1 over all blocks.
    """

    all_ms: float
    where_faster_ms: float
    blocks: tuple[str, ...] | tuple[int, ...]

    @classmethod
    def from_fields(cls, fields: Fields) -> FusingRecord:
        """Return the costs that a file holds."""
        all_ms = fields.nested("all").number("latency_ms")
        where_faster_ms = fields.nested("where_faster").number("latency_ms")
        blocks = fields.listed("blocks", "a list of paths or of whole numbers")
        if any(isinstance(blocks.plain(place), str) for place in blocks):
            return cls(all_ms, where_faster_ms, tuple(blocks.text(place) for place in blocks))
        return cls(all_ms, where_faster_ms, tuple(blocks.whole(place) for place in blocks))

    def to_dict(self) -> dict[str, object]:
        """Return it as data that JSON knows."""
        return {
            "all": {"latency_ms": self.all_ms},
            "where_faster": {"latency_ms": self.where_faster_ms},
            "blocks": list(self.blocks),
        }


@dataclass(frozen=True)
class EpochsRecord:
    """How long each part was trained, in epochs; None where a file that was written by others does not tell.

    Attributes:
        source: Epochs of the network as it was.
        search: Epochs of the supernet, or of each trial.
        finetune: Epochs of the subnet.
    """

    source: int | None = None
    search: int | None = None
    finetune: int | None = None

    @classmethod
    def from_fields(cls, fields: Fields) -> EpochsRecord:
        """Return the epochs that a file holds."""
        return cls(*(fields.whole_or_none(name) for name in ("source", "search", "finetune")))

    def __str__(self) -> str:
        """Return the epochs that are known: ``source 24, search 8, finetune 12``."""
        return ", ".join(f"{name} {count}" for name, count in asdict(self).items() if count is not None)


@dataclass(frozen=True)
class ProvenanceRecord:
    """How a run was made: its file ``run.json``. What a record does not tell is None.

    Attributes:
        command: The command line, without folders of one machine.
        machine: Kind of processor and number of threads.
        epochs: How long each part was trained.
        taught_by: What the subnet began from and imitated: the ``source``, as in records before 2026-11-27 which do not
            tell, or the ``baseline``.
        data: Name of the data.
        fusing: What fusing blocks of the source would have cost.
        finished: Date of the end, such as ``2026-11-30``.
        interface: What whoever deploys the subnet has to know of the data: ``classes``, the names in the order of the
            outputs, and ``preprocessing``, what is done to an image; in records since 2026-11-29.
    """

    command: str | None = None
    machine: str | None = None
    epochs: EpochsRecord | None = None
    taught_by: str = "source"
    data: str | None = None
    fusing: FusingRecord | None = None  # in records since 2026-11-23
    finished: str | None = None
    interface: Mapping[str, object] = field(default_factory=dict)

    @classmethod
    def from_fields(cls, fields: Fields) -> ProvenanceRecord:
        """Return the origin that a file holds."""
        epochs, fusing = (fields.nested_or_none(name) for name in ("epochs", "fusing"))
        return cls(
            command=fields.text_or_none("command"),
            machine=_machine(fields),
            epochs=None if epochs is None else EpochsRecord.from_fields(epochs),
            taught_by=fields.text_or_none("taught_by") or "source",
            data=fields.text_or_none("data"),
            fusing=None if fusing is None else FusingRecord.from_fields(fusing),
            finished=fields.text_or_none("finished"),
            interface={name: fields.plain(name) for name in _INTERFACE if fields.has(name)},
        )

    def to_dict(self) -> dict[str, object]:
        """Return the content of ``run.json``."""
        return {
            "command": self.command,
            "machine": self.machine,
            "epochs": None if self.epochs is None else asdict(self.epochs),
            "taught_by": self.taught_by,
            "data": self.data,
            "fusing": None if self.fusing is None else self.fusing.to_dict(),
            "finished": self.finished,
            **self.interface,
        }


@dataclass(frozen=True)
class RunRecord:
    """What a run found: its file ``result.json``.

    Attributes:
        recipe: Name of the recipe.
        device: Name of the device.
        seed: Seed of everything random.
        budget: What the subnet was allowed to cost.
        baseline: The source network, trained on for as many steps as search and fine-tuning of the subnet took.
        subnet: What was found, fine-tuned.
        task: What was learnt: ``classification``, ``detection`` or ``segmentation``; None where a file that was written
            by others does not tell.
        choices: What was searched: ``both``, ``widths`` or ``kinds``.
        comparisons: Other networks of the same budget, by name.
        verified_sram_bytes: Fast memory of baseline and subnet by the device's backend, where memory was limited; in
            records since 2026-11-23.
        search: What the search cost, and what is known of its supernet or its trials.
        versions: Versions of Python and of the packages that the run depends on.
    """

    recipe: str
    device: str
    seed: int
    budget: BudgetRecord
    baseline: NetworkRecord
    subnet: NetworkRecord
    task: str | None = None
    choices: str = "both"
    comparisons: Mapping[str, ComparisonRecord] = field(default_factory=dict)
    verified_sram_bytes: Mapping[str, int] = field(default_factory=dict)
    search: SearchRecord | None = None
    versions: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def from_fields(cls, fields: Fields) -> RunRecord:
        """Return the result that a file holds.

        Args:
            fields: Content of ``result.json``.

        Raises:
            ValueError: It is not in its form; the message names file and field.
        """
        for name in _RESULT_FIELDS:
            if name not in set(fields):
                raise ValueError(
                    f"'{fields.file}' must be a result with the field {name!r}; it has {', '.join(fields)}."
                )
        search, sram_bytes = fields.nested_or_none("search"), fields.nested("verified_sram_bytes")
        return cls(
            recipe=fields.text("recipe"),
            device=fields.text("device"),
            seed=fields.whole("seed"),
            budget=BudgetRecord.from_fields(fields.required_nested("budget")),
            baseline=NetworkRecord.from_fields(fields.nested("baseline")),
            subnet=NetworkRecord.from_fields(fields.nested("subnet")),
            task=fields.text_or_none("task"),
            choices=fields.text_or_none("choices") or "both",
            comparisons=_comparisons(fields),
            verified_sram_bytes={name: sram_bytes.whole(name) for name in sram_bytes},
            search=None if search is None else SearchRecord.from_fields(search),
            versions=_texts(fields, "versions"),
        )

    @property
    def is_within_budget(self) -> bool:
        """Whether the subnet keeps every limit, by the estimator."""
        return self.budget.is_kept_by(self.subnet.cost)

    def to_dict(self) -> dict[str, object]:
        """Return the content of ``result.json``."""
        compared = {name: network.to_dict() for name, network in self.comparisons.items()}
        sram_bytes = dict(self.verified_sram_bytes)
        return {
            "recipe": self.recipe,
            "task": self.task,
            "device": self.device,
            "seed": self.seed,
            "budget": self.budget.to_dict(),
            "baseline": self.baseline.to_dict(),
            "subnet": self.subnet.to_dict(),
            **({} if self.choices == "both" else {"choices": self.choices}),
            **({"comparisons": compared} if compared else {}),
            **({"verified_sram_bytes": sram_bytes} if sram_bytes else {}),
            "search": None if self.search is None else self.search.to_dict(),
            "versions": dict(self.versions),
        }


def _comparisons(fields: Fields) -> dict[str, ComparisonRecord]:
    if fields.has("comparisons") and not isinstance(fields.plain("comparisons"), dict):
        found = type(fields.plain("comparisons")).__name__
        raise ValueError(f"'{fields.file}' must map names to costs as its comparisons; got {found}.")
    compared = fields.nested("comparisons")
    return {name: ComparisonRecord.from_fields(compared.nested(name)) for name in compared}


def _texts(fields: Fields, name: str) -> dict[str, str]:
    """Return the texts of an object by their names; none where the field is null, empty or missing."""
    texts = fields.nested_or_none(name)
    return {} if texts is None else {key: texts.text(key) for key in texts}


def _machine(fields: Fields) -> str | None:
    """Return the machine; in early records it was an object."""
    if isinstance(fields.plain("machine"), dict):
        return ", ".join(f"{name} {text}" for name, text in _texts(fields, "machine").items())
    return fields.text_or_none("machine")
