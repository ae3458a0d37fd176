"""Quantizes a model unit by unit: each is read, rounded, written and freed, so memory holds about one.

The folder is written file by file, along with its manifest under a temporary name, from which an
interrupted run resumes. The folder is a model only once the manifest is renamed at the end. With
examples, every written layer is read back and the examples are run through it.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from tessera import __version__
from tessera.errors import CheckpointError, UsageError
from tessera.kernels.quantized_weight import QuantizedWeight
from tessera.linears.quantized import place
from tessera.load import compute_dtype, model_name, target_device
from tessera.machine import disk_room, free_disk_bytes, written_whole
from tessera.model.config import ModelConfig
from tessera.model.pixtral import Pixtral
from tessera.prompt import Tokenizer
from tessera.quantize.calibration import Calibration
from tessera.quantize.examples import Examples, read_examples
from tessera.quantize.gptq import round_compensated, upper_factor
from tessera.quantize.plan import Options, Unit, bytes_needed, linear_of, schemes_of, units_of
from tessera.quantize.rounding import BITS, PANEL_ROWS, ErrorSum, round_to
from tessera.weights.checkpoint import open_checkpoint
from tessera.weights.detect import MANIFEST, UNFINISHED
from tessera.weights.fill import empty_model, fill_model
from tessera.weights.quantized import ALIGNMENT, LinearRecord, Manifest, read_linears, read_manifest
from tessera.weights.source import Source
from tessera.weights.write import Piece, piece_of_panels, pieces_of, write_tensors

COMPENSATED = ("int3", "int4")  # the schemes that calibration rounds for the inputs; others lose too little
DIGESTED_BYTES = 4096  # of each tensor: enough to distinguish two models of one shape quickly


@dataclass(frozen=True)
class Step:
    """Progress report for one finished unit: its linears and their errors."""

    unit: str
    number: int
    total: int
    linears: Mapping[str, LinearRecord]


@dataclass(frozen=True)
class _Original:
    """The model to be quantized."""

    config: ModelConfig
    sources: Mapping[str, Source]
    dtype: torch.dtype  # used by calibration
    device: torch.device

    def part(self, plain: Mapping[str, Source], weights: Mapping[str, QuantizedWeight] | None = None) -> Pixtral:
        """Return the model with only these tensors and the final norm (for device and dtype); the rest is empty."""
        model = empty_model(self.config)
        for name, weight in (weights or {}).items():
            place(model, name, weight.to(self.device))
        norm = {"norm.weight": self.sources["norm.weight"]}
        fill_model(model, {**norm, **plain}, dtype=self.dtype, device=self.device)
        return model


def quantize(
    source: Path,
    destination: Path,
    options: Options,
    *,
    calibrate: Path | None = None,
    device: str = "auto",
    watch: Callable[[Step], None] | None = None,
    started: Callable[[str], None] | None = None,
) -> Manifest:
    """Write the model in `source`, quantized, into the folder `destination`; resumes an interrupted run.

    `watch` hears of each unit that is finished, `started` of what is worked on. `calibrate` is a folder
    of examples, by which weights of 3 and 4 bits are rounded and all errors are measured. Raises
    UsageError for an invalid option, CheckpointError for an incomplete source, and DiskFullError if the
    disk fills up; files already written are kept, so that the run can resume.
    """
    if destination.resolve() == source.resolve():
        raise UsageError(f"{destination} is the source itself; name a new folder.")
    checkpoint = open_checkpoint(source)
    config = checkpoint.config
    if checkpoint.is_coded:
        raise UsageError(f"{source} is quantized already; quantize the original, since errors would add up.")
    sources, schemes = checkpoint.plain_sources(), schemes_of(config, options)
    if any(schemes.get(name) == "fp8" for name in checkpoint.linears):
        raise UsageError(f"{source} is in 8-bit floats already; use it as it is, or quantize it to 4 or 8 bits.")
    target = target_device(device)
    original = _Original(config, sources, compute_dtype("auto", checkpoint, target), target)
    tokenizer = checkpoint.tokenizer_file
    examples = None
    if calibrate is not None:
        vision = config.vision_encoder
        examples = read_examples(calibrate, Tokenizer.from_file(tokenizer, vision), vision)
    units = units_of(sources, config.n_layers)
    begun = Manifest(
        tool=f"tessera {__version__}",
        source=model_name(source),
        source_digest=_digest(sources),
        options=asdict(options) | {"examples": "none" if examples is None else examples.describe()},
        files=tuple(unit.file for unit in units),
        linears={},
    )
    with disk_room(destination):
        manifest = _begin(destination, begun, bytes_needed(sources, schemes, config))
        rounding = _Rounding(original, destination, schemes, examples, started or (lambda what: None))
        for number, unit in enumerate(units, 1):
            names = {linear_of(name) for name in unit.tensors} & schemes.keys()
            if not (destination / unit.file).is_file() or not names <= manifest.linears.keys():
                manifest = replace(manifest, linears={**manifest.linears, **rounding.write(unit)})
                _write_json(destination / UNFINISHED, manifest.to_json())
            records = {name: manifest.linears[name] for name in schemes if name in names}
            rounding.leave(unit, records)
            if watch is not None:
                watch(Step(unit.name, number, len(units), records))
        shutil.copyfile(tokenizer, destination / ("tekken.json" if tokenizer.suffix == ".json" else tokenizer.name))
        _write_json(destination / "params.json", config.to_params())
        (destination / UNFINISHED).replace(destination / MANIFEST)
    return manifest


class _Rounding:
    """Writes the units in order; with examples, runs them through each written unit before the next."""

    def __init__(
        self,
        original: _Original,
        destination: Path,
        schemes: Mapping[str, str],
        examples: Examples | None,
        started: Callable[[str], None],
    ) -> None:
        self._original, self._destination, self._schemes, self._examples = original, destination, schemes, examples
        self._started = started
        self._calibration: Calibration | None = None

    def write(self, unit: Unit) -> dict[str, LinearRecord]:
        """Round the unit's linears and write its file; returns their records."""
        grams = self._grams(unit)
        pieces: list[Piece] = []
        records: dict[str, LinearRecord] = {}
        for name in unit.tensors:
            linear = linear_of(name)
            if linear in self._schemes:
                self._started(f"rounding {linear}")
                panels, records[linear] = self._round(name, self._schemes[linear], grams.get(linear))
                pieces += [
                    piece_of_panels(f"{linear}.{field}", [panel.tensors[field] for panel in panels])
                    for field in panels[0].tensors
                ]
            else:
                pieces += pieces_of({name: self._original.sources[name]}, "mistral", self._original.config)
        with written_whole(self._destination / unit.file) as partial:
            write_tensors(partial, pieces, alignment=ALIGNMENT)
        return records

    def leave(self, unit: Unit, records: Mapping[str, LinearRecord]) -> None:
        """Run the examples through the unit as written."""
        if self._examples is None or unit.name == "outer":
            return
        self._started(f"the samples pass {unit.name} as rounded")
        plain, weights = read_linears([self._destination / unit.file], records, self._original.config)
        model = self._original.part({name: Source(stored) for name, stored in plain.items()}, weights)
        if self._calibration is None:
            self._calibration = Calibration(self._examples.prompts, model, self._embeddings)
        else:
            self._calibration.advance(model.get_submodule(unit.name))

    def _grams(self, unit: Unit) -> dict[str, Tensor]:
        """Return the Gram matrices of the inputs of the unit's linears, by name, as far as calibration has them."""
        if self._calibration is None:
            return {}
        self._started(f"the samples pass {unit.name}")
        model = self._original.part({name: self._original.sources[name] for name in unit.tensors})
        if unit.name == "outer":
            return {"output": self._calibration.final_gram(model.norm)}
        grams = self._calibration.grams(model.get_submodule(unit.name))
        return {f"{unit.name}.{name}": gram for name, gram in grams.items()}

    def _round(self, name: str, scheme: str, gram_KK: Tensor | None) -> tuple[list[QuantizedWeight], LinearRecord]:
        """Round a linear's matrix in panels of rows, so that a large one need not be in memory whole."""
        source, panels = self._original.sources[name], []
        weight_error, output_error = ErrorSum(), ErrorSum(gram_KK)
        factor_KK = upper_factor(gram_KK) if gram_KK is not None and scheme in COMPENSATED else None
        for stored_NK in source.panels(PANEL_ROWS):
            rows_NK = stored_NK.to(self._original.device)
            if not torch.isfinite(rows_NK).all():
                raise CheckpointError(
                    f"{source.stored.file}: {name!r} holds numbers that are infinite or NaN; download it again."
                )
            if factor_KK is None:
                weight = round_to(scheme, rows_NK)
            else:
                weight = round_compensated(rows_NK, factor_KK, BITS[scheme])
            weight_error.add(rows_NK, weight)
            if gram_KK is not None:
                output_error.add(rows_NK, weight)
            panels.append(weight.to(torch.device("cpu")))
        measured = None if gram_KK is None else output_error.relative
        return panels, LinearRecord(scheme, weight_error.relative, measured)

    def _embeddings(self, ids_T: Tensor) -> Tensor:
        """Read rows of the token embeddings one by one: the whole table would be larger than a layer."""
        stored = self._original.sources["tok_embeddings.weight"].stored
        return torch.cat([stored.rows(token, token + 1) for token in ids_T.tolist()])


def _digest(sources: Mapping[str, Source]) -> str:
    """Identify a checkpoint by a SHA-256 of all names, dtypes, shapes and first bytes."""
    seen = hashlib.sha256()
    for name, source in sources.items():
        stored = source.stored
        seen.update(f"{name} {stored.dtype} {stored.shape}\n".encode() + stored.first_bytes(DIGESTED_BYTES))
    return f"sha256:{seen.hexdigest()}"


def _begin(destination: Path, begun: Manifest, needed: int) -> Manifest:
    """Return the manifest to continue: a new one, or that of an interrupted run with the same options."""
    unfinished = destination / UNFINISHED
    if unfinished.is_file():
        manifest = read_manifest(unfinished)
        if replace(manifest, linears={}) != begun:
            raise UsageError(
                f"{destination} holds an unfinished quantization of {manifest.source} with other options or weights "
                f"({_shown(manifest.options)}); finish that one, or name a new folder."
            )
        needed -= sum(file.stat().st_size for file in destination.iterdir())
    elif destination.exists() and (not destination.is_dir() or any(destination.iterdir())):
        raise UsageError(f"{destination} exists and is not an empty folder; nothing is overwritten, so name a new one.")
    else:
        manifest = begun
    if needed > (free := free_disk_bytes(destination)):
        raise UsageError(
            f"the quantized model takes {needed / 1e9:.2f} GB and {free / 1e9:.2f} GB is free at {destination}; free "
            "some, or name a folder on a larger disk."
        )
    destination.mkdir(parents=True, exist_ok=True)
    _write_json(unfinished, manifest.to_json())
    return manifest


def _shown(options: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {value}" for name, value in options.items())


def _write_json(file: Path, content: object) -> None:
    with written_whole(file) as partial:
        partial.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
