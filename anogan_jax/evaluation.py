"""Scoring a set of images into a folder: resuming, volumes and the report."""

import hashlib
import logging
import math
import os
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np

from anogan_jax.baselines import baselines_of
from anogan_jax.calibration import alpha_obstacle, map_level
from anogan_jax.data import Images, folder_of, is_readable, limit_pixels, load_one_class, read_ahead, test_split
from anogan_jax.data.image_files import file_of, from_paths, name_of_maps, suffix_of, without_suffix, write_maps
from anogan_jax.data.images import any_readable
from anogan_jax.detector import Detector, findings_of, in_regions
from anogan_jax.devices import gather, is_first
from anogan_jax.errors import UserError
from anogan_jax.files import claim, claimed, locked, remove_leftovers, replacing
from anogan_jax.journal import Journal
from anogan_jax.report import (
    EMBEDDING,
    OPTIONAL,
    REPORT,
    SCORES,
    VOLUMES,
    print_summary,
    read_names,
    record,
    write_report,
)
from anogan_jax.runtime import middle, p_values
from anogan_jax.spaces import embed, walk
from anogan_jax.storage import is_folder_of_arrays
from anogan_jax.version import __version__

log = logging.getLogger(__name__)
_PICTURES = ("heatmaps", "maps", "samples")  # folders of results whose files could be taken for images to score


def score_test_split(
    detector: Detector, folder: Path, heatmaps: bool = False, maps: bool = False, embedding: bool = False
) -> dict[str, Any]:
    """Score the test split of the detector's data set, with the baselines' AUROC if it has anomalous images.

    Raises:
      UserError: the data set is missing or has no test split.
    """
    data = load_one_class(detector.config, roi_mask=detector.regions.mask)
    test = test_split(data)
    baselines = baselines_of(detector.config, data.train, test) if has_both(test) and is_first() else {}
    return score_to_folder(detector, test, folder, data.origin, data.warning, baselines, heatmaps, maps, embedding)


def score_to_folder(
    detector: Detector,
    queries: Images,
    folder: Path,
    origin: str,
    warning: str = "",
    baselines: dict[str, np.ndarray] | None = None,
    heatmaps: bool = False,
    maps: bool = False,
    embedding: bool = False,
) -> dict[str, Any]:
    """Score images into a folder and write the report; a run that was killed resumes where it stopped.

    Memory does not grow with the number of images. Several processes share the work, and the first writes.

    Args:
      detector: the trained detector.
      queries: the images.
      folder: the folder for the files that ``write_report`` lists.
      origin: a description of the images, for summary.json.
      warning: why they may not be the intended images; it is shown, and written to summary.json.
      baselines: by name, other detectors' scores of the images.
      heatmaps: write heatmaps/<name>.png, each query under its anomaly map.
      maps: write maps/<name>.npy, each anomaly map (H, W) float32; those of a volume also in its format.
      embedding: write embedding.png, and show it in the report: see ``embed``.

    Returns:
      The content of summary.json; on other processes than the first, only the number of unreadable images.
    """
    check_masks(queries)
    queries = any_readable(in_regions(detector, queries), origin)
    config, held_out = detector.config, detector.calibration.scores
    volumes = [row.volume for row in queries.rows or ()]
    if warning := "; ".join(filter(None, [warning, _obstacle(volumes, len(held_out), config.alpha)])):
        log.warning("%s", warning)
    level = map_level(detector.calibration, config.alpha)
    made_with = (__version__, config, detector.step, level, origin, heatmaps, maps, queries.stamp, list(queries.names))
    folders = [folder / each if wanted else None for each, wanted in (("heatmaps", heatmaps), ("maps", maps))]
    names = [*REPORT, *([VOLUMES] if any(volumes) else []), *(each.name for each in folders if each)]
    with writing(folder, [*names, *([EMBEDDING] if embedding else [])], origin):
        digest = hashlib.sha256(repr(made_with).encode()).hexdigest()
        journal = _open_journal(folder, digest, queries.names) if is_first() else None
        done = int(gather(np.array(journal.count if journal else 0))[0])
        if done:
            log.info("resuming: %d of %d images were scored before", done, len(queries.names))
        findings = findings_of(detector, queries, "scoring", first=done)
        if journal is None:
            return {"unreadable": sum(not finding.is_readable for finding in findings)}
        began = time.monotonic()
        record(journal, findings, queries, level, *folders)
        facts = _facts(detector, origin, warning, time.monotonic() - began, len(queries.names) - done)
        if maps:
            _write_maps(folder / "maps", queries, config.data.crop)
        walk, points = _walk(detector, journal), embed(detector, queries) if embedding else None
        summary = write_report(
            folder, journal, held_out, config.alpha, level, facts, baselines or {}, walk, points, volumes
        )
        journal.remove()
    print_summary(f"Results in {folder}", summary)
    return summary


def _facts(detector: Detector, origin: str, warning: str, seconds: float, count: int) -> dict[str, Any]:
    """Return the entries of summary.json on what was scored and how, and how long ``count`` images took."""
    config, model = detector.config, detector.model
    facts: dict[str, Any] = {"data": origin} | ({"warning": warning} if warning else {})
    facts["search"] = ", ".join(f"{name} {value}" for name, value in vars(config.search).items())
    if model.segmenter:
        facts["segmenter_weight"] = config.segmenter.weight
    if model.rotation:
        facts["rotation_weight"] = config.rotation.weight
    return facts | {"training_steps": detector.step, "seconds": seconds, "images_per_second": count / seconds}


def score_contents(detector: Detector, files: Iterable[tuple[str, bytes]]) -> dict[str, Any]:
    """Score image files from their contents, which the caller has read; for clusters that divide the work.

    Args:
      detector: the trained detector.
      files: the name and the content of each.

    Returns:
      Columns, with a row for each picture of a file: file, its name as given; name, the same with the picture's number
      if there are several, ``scan.tif#017``; and, as in scores.csv, score and its terms, p_value and is_anomaly. If a
      picture cannot be read, its numbers are NaN, its term is empty and is_anomaly is False.
    """
    data = detector.config.data
    limit_pixels(data.max_pixels)
    with tempfile.TemporaryDirectory() as folder:
        names, paths = [], list[Path]()
        for number, (name, content) in enumerate(files):
            path = Path(folder, str(number), f"image{suffix_of(name)}")  # the name itself may be no name of a file
            path.parent.mkdir()
            path.write_bytes(content)
            names.append(name)
            paths.append(path)
        images = from_paths(paths, Path(folder), detector.config.model.channels, data.window)
        found = list(findings_of(detector, images))
    columns: dict[str, Any] = {name: np.array([getattr(each, name) for each in found]) for name in SCORES}
    p = p_values(columns["score"], detector.calibration.scores)
    columns |= {"p_value": p, "is_anomaly": p <= detector.config.alpha}
    numbers = [int(name.partition("/")[0]) for name in images.names]  # of files
    slices = [name.removeprefix(f"{i}/{paths[i].name}") for i, name in zip(numbers, images.names, strict=True)]
    of = [names[i] for i in numbers]
    return {"file": of, "name": [name + each for name, each in zip(of, slices, strict=True)], **columns}


def _walk(detector: Detector, journal: Journal) -> np.ndarray | None:
    """Return a walk from the z of the least anomalous query to that of the most anomalous one, if there are any."""
    found = [(entry.score, entry.z) for entry in journal.entries() if entry.z]
    if not found:
        return None
    return walk(detector, *(np.frombuffer(z, np.float32) for _, z in (min(found), max(found))))


def _obstacle(volumes: Sequence[str], held_out: int, alpha: float) -> str:
    """Return why no image, or no volume with the most slices, can be called an anomaly; an empty string if one can."""
    slices = max(Counter(filter(None, volumes)).values(), default=0)
    if obstacle := alpha_obstacle(held_out, alpha):
        return obstacle
    if slices <= alpha * (1 + held_out):
        return ""
    needed = math.ceil(slices / alpha) - 1
    return (
        f"volumes of {slices} slices: too many for {held_out} held-out images, so no such volume can be called an "
        f"anomaly; {needed} held-out images are needed"
    )


def _write_maps(folder: Path, queries: Images, crop: int | None) -> None:
    """Write the maps of each volume that is one file as a volume of the same format, from the maps of its slices.

    The volume has the size of its source: NaN where ``data.crop`` cut an image off, and in slices that were not read.
    """

    def load(file: Path, number: int) -> np.ndarray:
        if not crop:
            return np.load(file)
        assert queries.raw is not None
        whole = np.full(queries.raw(number)[0].shape[:2], np.nan, np.float32)
        middle(whole, crop)[...] = np.load(file)
        return whole

    parts = defaultdict[Path, dict[int, int]](dict)
    for i, row in enumerate(queries.rows or ()):
        if row.depth > 1:
            parts[row.path][row.number] = i
    for source, numbers in parts.items():
        files = {k: (folder / f"{queries.names[i]}.npy", i) for k, i in numbers.items()}
        written = {k: (file, i) for k, (file, i) in files.items() if file.is_file()}
        name = name_of_maps(file_of(queries, min(numbers.values())))
        if not name or not written:
            continue
        missing = np.full_like(load(*next(iter(written.values()))), np.nan)
        depth = (queries.rows or ())[min(numbers.values())].depth
        slices = (load(*written[k]) if k in written else missing for k in range(depth))
        with replacing(folder / name) as temporary:
            write_maps(source, temporary, slices)


def origin_of(sources: Sequence[Path]) -> str:
    """Describe an input as text: its path, or for several their common folder, their number and a digest."""
    if len(sources) == 1:
        return str(sources[0].resolve())
    names = "\n".join(str(source.resolve()) for source in sources)
    digest = hashlib.sha256(os.fsencode(names)).hexdigest()[:8]
    return f"{folder_of(sources).resolve()}: {len(sources)} files and folders, {digest}"


def folder_of_input(workdir: Path, *sources: Path) -> Path:
    """Return the folder for results of an input, named after it; another one if that has results of another input."""
    source, origin = (sources[0] if len(sources) == 1 else folder_of(sources)).resolve(), origin_of(sources)
    folder = workdir / "inputs" / (source.name if source.is_dir() else without_suffix(source).name)
    if claimed(folder)["origin"] in (None, origin):
        return folder
    return folder.with_name(f"{folder.name}-{hashlib.sha256(os.fsencode(origin)).hexdigest()[:8]}")


def check_apart(output: Path, *sources: Path) -> None:
    """Raise UserError if results in the output folder would be among the images to score, now or the next time."""
    output = output.resolve()
    for source in (source.resolve() for source in sources):
        if output.is_relative_to(source) or any(source.is_relative_to(output / name) for name in _PICTURES):
            raise UserError(f"{output}: the results would be among the images of {source}; give --output outside of it")


@contextmanager
def writing(folder: Path, names: Iterable[str], origin: str) -> Iterator[None]:
    """Lock a folder for results and claim files in it, on the first process; refuse a detector's own folder."""
    for each in (folder, *folder.resolve().parents):
        if is_folder_of_arrays(each):
            raise UserError(
                f"{folder}: lies in the folder of a detector, {each}, which is copied; give another --output"
            )
    with locked(folder, "scoring") if is_first() else nullcontext():
        if is_first():
            remove_leftovers(folder, _PICTURES)
            claim(folder, names, origin)
        yield


def _open_journal(folder: Path, made_with: str, names: Sequence[str]) -> Journal:
    """Open the journal of a scoring run; if it starts anew, remove files of earlier runs that it may not replace."""
    journal, scores = Journal(folder / ".unfinished.sqlite", made_with, names), folder / "scores.csv"
    owned = claimed(folder)
    earlier = set(journal.earlier) | (read_names(scores) if scores.exists() and not journal.count else set())
    removed = 0
    for name in OPTIONAL:
        if name in owned["files"] and not journal.count:
            (folder / name).unlink(missing_ok=True)
    written = [
        (each, f"{name}.{suffix}") for each, suffix in (("heatmaps", "png"), ("maps", "npy")) for name in earlier
    ]
    written += [("maps", name) for name in {name_of_maps(name.rpartition("#")[0]) for name in earlier} if name]
    for subfolder, path in ((each, folder / each / name) for each, name in written if each in owned["files"]):
        if path.resolve().is_relative_to((folder / subfolder).resolve()) and path.is_file():
            path.unlink()
            removed += 1
    if removed:
        log.info("removed %d heatmaps and maps of an earlier run from %s", removed, folder)
    return journal


def check_masks(queries: Images) -> None:
    """Raise UserError if the mask of a readable image is missing or does not fit."""
    if queries.mask is None:
        return
    for i, mask in enumerate(read_ahead(queries.mask, range(len(queries.names)), ahead=16)):
        if isinstance(mask, UserError) and is_readable(queries, i):
            raise mask


def has_both(images: Images) -> bool:
    """Return whether normal and anomalous images are known."""
    return images.labels is not None and set(images.labels.tolist()) == {0, 1}
