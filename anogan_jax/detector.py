"""A trained detector, which scores images and can be saved to, loaded from and exported to files."""

import dataclasses
import html
import json
import logging
import os
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from anogan_jax import config as configs
from anogan_jax.appearance import tree_of
from anogan_jax.bank import Bank, make_index, make_neighbours
from anogan_jax.calibration import Calibration, appearance_level, map_level
from anogan_jax.config import Config, SearchConfig
from anogan_jax.data import (
    Images,
    cropped,
    from_user,
    is_folder_of_masks,
    limit_pixels,
    parse_threshold,
    to_networks,
    view_of,
    within,
)
from anogan_jax.data.images import from_list
from anogan_jax.devices import make_mesh
from anogan_jax.errors import UserError
from anogan_jax.features import Features, make_features
from anogan_jax.figures import captioned, strip
from anogan_jax.files import given_path
from anogan_jax.models import GAN, Weights, make_encoder, make_gan, make_rotation_network, make_segmenter
from anogan_jax.portable import export_program
from anogan_jax.queries import score_queries
from anogan_jax.rotation import Rotation
from anogan_jax.runtime import (
    Appearance,
    Finding,
    Score,
    combine,
    make_judge,
    p_values,
    stacked,
)
from anogan_jax.scoring import Model, Segmentation, make_program, make_scorer
from anogan_jax.search import make_search
from anogan_jax.storage import is_folder_of_arrays, joined, parted, read_folder, write_folder
from anogan_jax.version import __version__

log = logging.getLogger(__name__)
_CALIBRATING = 64  # held-out images that calibrate a search that is only compared
_EXAMPLES = {"example:digits": Path(__file__).parent / "examples" / "digits"}
_SHOWN = 12  # results that a notebook shows as pictures
_UNCALIBRATED = Calibration(np.zeros(0), np.zeros(0), np.zeros(()), np.zeros(()))


class Result(NamedTuple):
    """Scores of N images. Maps and reconstructions have the images' sizes; they are lists if the sizes differ."""

    score: np.ndarray  # (N,) float64, higher is more anomalous
    p_value: np.ndarray  # (N,) float64 in (0, 1], see ``p_values``
    is_anomaly: np.ndarray  # (N,) bool, p_value <= alpha
    anomaly_map: Any  # (N, H, W) float32, at least 0: difference from the reconstructions and nearest references
    reconstruction: Any  # (N, H, W, C) uint8 G(z) where the best search ended
    residual: np.ndarray  # (N,) float64 R(x)
    discrimination: np.ndarray  # (N,) float64 D(x)
    damage: np.ndarray  # (N,) float64 S(x) of the segmenter, 0 without one
    rotation: np.ndarray  # (N,) float64 T(x) of the rotation network, see ``rotation_term``; 0 without one
    appearance: np.ndarray  # (N,) float64 the larger appearance term, divided by its limit; above 1 it raises the score
    term: np.ndarray  # (N,) str, what determined each score: "appearance", "detail", or else "reconstruction"
    image: Any  # (N, H, W, C) uint8 the images at their own size, after ``data.crop`` and ``data.roi``
    map_level: np.ndarray  # (N,) float64 one value, repeated: what maps of normal images seldom exceed
    name: np.ndarray  # (N,) str the images' paths, as in scores.csv; of arrays their numbers

    def __repr__(self) -> str:
        low, high = self.score.min(), self.score.max()
        found = f"{np.count_nonzero(self.is_anomaly)} of {len(self.score)} images are anomalies"
        return f"Result: {found}, scores {low:.4g} to {high:.4g}; fields {', '.join(self._fields)}"

    def _repr_html_(self) -> str:
        """Show the most anomalous images in a notebook: query, reconstruction, map, overlay."""
        shown = np.argsort(-self.score, kind="stable")[:_SHOWN].tolist()
        pictures = [strip(self.image[i], self.reconstruction[i], self.anomaly_map[i], self.map_level[i]) for i in shown]
        captions = [
            f"{i}: score {self.score[i]:.4g}, p {self.p_value[i]:.3g}{', anomaly' if self.is_anomaly[i] else ''}"
            for i in shown
        ]
        return f"<p>{html.escape(repr(self))}</p>{captioned(list(zip(captions, pictures, strict=True)))}"


class Regions(NamedTuple):
    """The regions of interest that a detector keeps."""

    mask: np.ndarray | None  # (H, W) bool the one region for all images, if there is one
    held_out: list[np.ndarray]  # the region of each held-out image, (H, W) bool; empty without ``data.roi``


class Detector(NamedTuple):
    """Everything that scoring needs of a training run; complete, and independent of the training data."""

    config: Config  # training settings, which are fixed, and scoring settings
    gan: GAN  # static
    model: Model  # arrays on the device: weights, encoder, index of the bank
    bank: Bank  # where searches start
    references: np.ndarray | None  # (K, S, S, C) uint8 training images to compare with; None if none are kept
    appearance: Appearance  # the appearance of normal images
    held_out: list[np.ndarray] | None  # M normal images, as ``resized_images`` returns them; None if not kept
    calibration: Calibration  # from the held-out images under these settings
    step: int  # training steps done
    regions: Regions  # the regions of interest

    def __repr__(self) -> str:
        model, search, size = self.config.model, self.config.search, self.config.model.image_size
        others = [name for name in ("encoder", "segmenter", "rotation") if getattr(self.model, name)]
        held_out, references = len(self.calibration.scores), len(self.references) if self.references is not None else 0
        return "\n".join(
            [
                f"Detector: {size}x{size} pixels, {model.channels} channel(s), {self.step:,} training steps",
                f"  networks: {', '.join(['generator', 'discriminator', *others])}",
                f"  search: {search.starts} start(s), {search.start}, {search.steps} steps, by {search.features}",
                f"  bank: {len(self.bank.z):,} images, and {references:,} references",
                f"  calibration: {held_out:,} held-out images, alpha {self.config.alpha:g}",
            ]
        )

    def score(self, images: Any) -> Result:
        """Score images. The score of an image depends only on the image and the detector.

        Args:
          images: uint8, or floats in [-1, 1], (N, H, W) or (N, H, W, C) of any size; a list of such images, of paths
            or of Pillow's images; or the path of an image, a folder, an .npy or an .npz file; floats in files lie in
            [0, 1].

        Raises:
          UserError: an image or its region of interest cannot be read, or floats are not scaled to [-1, 1].
        """
        limit_pixels(self.config.data.max_pixels)
        queries = in_regions(self, from_user(images, self.config.model.channels, self.config.data.window))
        findings = list(findings_of(self, queries))
        for number, finding in enumerate(findings):
            if not finding.is_readable:
                queries.read(number)  # raises the reason, if there still is one
                raise UserError(f"{queries.names[number]}: could not be read at first, but now it can; score again")
        fields = [name for name in Result._fields if name in Finding._fields]
        values = {name: stacked([getattr(finding, name) for finding in findings]) for name in fields}
        p = p_values(values["score"], self.calibration.scores)
        level = np.full(len(p), map_level(self.calibration, self.config.alpha))
        verdicts = p <= self.config.alpha
        return Result(p_value=p, is_anomaly=verdicts, map_level=level, name=np.array(queries.names), **values)

    def with_config(self, config: Config) -> "Detector":
        """Return the detector with other scoring settings, calibrated again with the held-out images if needed.

        Raises:
          UserError: a training setting differs, the search needs an encoder but none was trained, or held-out images
            are needed but were not kept.
        """
        if not isinstance(config, Config):
            raise UserError(
                f"config: must be an anogan_jax.Config, not {type(config).__name__}; see config.with_values"
            )
        config = configs.with_window_of(configs.validate(config), self.config)
        mine, theirs = configs.to_fields(self.config), configs.to_fields(config)
        changed = [name for name in mine if mine[name] != theirs[name]]
        roi = config.data.roi  # Path("") is a folder, the working directory
        has_masks = is_folder_of_masks(self.config.data.roi, self.regions.mask) and roi and Path(roi).is_dir()
        for name in changed:
            given = f"{name}={theirs[name]!r}"
            if not configs.is_scoring(name):
                raise UserError(f"{given}: is fixed by training, with {mine[name]!r}; train again to change it")
            if name == "data.roi" and not has_masks:
                was = f"with {mine[name]!r}" if mine[name] else "without a region of interest"
                raise UserError(
                    f"{given}: the detector was trained {was}; only a folder of masks can be replaced, by another one"
                )
            if configs.changes_scores(name) and self.held_out is None:
                raise UserError(
                    f"{given}: needs another calibration, but the detector keeps no held-out images "
                    f"(data.keep_held_out=False); it scores with {mine[name]!r} only"
                )
        if recalibrate := [name for name in changed if configs.changes_scores(name)]:
            log.info("calibrating again for %s", ", ".join(f"{name}={theirs[name]}" for name in recalibrate))
            return _calibrated(_configured(self, config))
        return self._replace(config=config)

    def with_preset(self, name: str) -> "Detector":
        """Return the detector with the search settings of a preset, such as "nearest"; see ``with_config``."""
        return self.with_config(configs.with_preset(self.config, name))

    def with_search(self, search: SearchConfig, values: dict[str, Any] | None = None) -> "Detector":
        """Return the detector with another search, calibrated with few held-out images; its p-values are coarse.

        Args:
          search: the settings of the search.
          values: the values of further scoring settings, by their dotted names, such as "segmenter.weight".
        """
        configured = _configured(self, configs.with_values(self.config, {"search": search} | (values or {})))
        return _calibrated(configured._replace(held_out=(self.held_out or [])[:_CALIBRATING]))

    def save(self, folder: str | Path) -> None:
        """Write the detector to ``folder/detector``, complete or not at all.

        Raises:
          UserError: the folder holds a detector already, or cannot be written.
        """
        write_folder(given_path(folder, "folder") / "detector", *_stored(self))

    def export(self, path: str | Path) -> None:
        """Write the detector with its settings to one file, for ``anogan_jax/runtime.py`` without the library.

        Raises:
          UserError: the file exists already, or cannot be written, or the extra ``export`` is not installed.
        """
        target, roi = given_path(path, "path"), self.config.data.roi
        region: Any = None
        if is_folder_of_masks(roi, self.regions.mask):
            region = "masks"
        elif roi and self.regions.mask is None:
            region = parse_threshold(roi)
        arrays = {"held_out": self.calibration.scores} | self.appearance._asdict()
        if self.regions.mask is not None:
            arrays["mask"] = self.regions.mask
        facts = {
            "view": view_of(self.config)._asdict(),
            "alpha": self.config.alpha,
            "levels": _levels(self.calibration),
            "region": region,
        }
        export_program(target, make_program(**_settings(self)), self.model, facts, arrays)


def make_detector(
    config: Config,
    model: Model,
    bank: Bank,
    references: np.ndarray | None,
    appearance: Appearance,
    step: int,
    held_out: list[np.ndarray] | None,
    regions: Regions,
    calibration: Calibration | None = None,
) -> Detector:
    """Return a complete detector, with the bank indexed and the held-out images scored.

    Args:
      config: all settings.
      model: the trained weights; the index of the bank is made here.
      bank: where searches start.
      references: (K, S, S, C) uint8 training images to compare with, or None.
      appearance: the appearance of normal images.
      step: training steps done.
      held_out: M normal images that training never saw, as ``resized_images`` returns them; kept in the detector
        unless ``data.keep_held_out`` is False.
      regions: the regions of interest: one for all images, or those of the held-out images.
      calibration: the calibration from the held-out images, if it is known.
    """
    gan, model = gan_of(config), jax.device_put(model)
    of = (config, gan, model, bank, references, appearance, held_out, _UNCALIBRATED, step, regions)
    detector = _configured(Detector(*of), config)
    return detector._replace(calibration=calibration) if calibration else _calibrated(detector)


def load(folder: str | Path) -> Detector:
    """Load a detector that training or ``Detector.save`` left in a folder, or a packaged one.

    Args:
      folder: the folder; or "example:digits", a detector of scikit-learn's zeros (``anogan_jax/examples``).

    Raises:
      UserError: there is no detector, or a file of it is missing or damaged.
    """
    folder = given_path(folder, "folder")
    if str(folder).startswith("example:") and str(folder) not in _EXAMPLES:
        raise UserError(f"{folder}: no such example; there is {', '.join(_EXAMPLES)}")
    path = _EXAMPLES.get(str(folder), folder) / "detector"
    path = path if os.path.isdir(path) else path.parent
    if not os.path.isdir(path):
        raise UserError(f"{folder}: no such folder, so there is no trained detector; train first")
    if not is_folder_of_arrays(path):
        raise UserError(f"{folder}: holds no trained detector; train first, or again if it was interrupted")
    facts, arrays = read_folder(path)
    variables: Any = unflatten_dict(arrays["weights.npz"], sep="/")
    held_out = parted(arrays["held_out.npz"]) if "held_out.npz" in arrays else None
    of_held_out = parted(arrays["held_out_regions.npz"]) if "held_out_regions.npz" in arrays else []
    regions = Regions(arrays.get("roi.npz", {}).get("mask"), of_held_out)
    config = configs.from_json(json.dumps(facts["config"]), f"{path}: ")
    weights = Weights(variables["generator"], variables["discriminator"])
    if "rotation" in variables and "rotation.npz" not in arrays:
        raise UserError(f"{folder}: was trained by an earlier version, with another rotation term; train again")
    rotation = Rotation(variables["rotation"], **arrays["rotation.npz"]) if "rotation" in variables else None
    model = Model(weights, variables.get("encoder"), segmenter=variables.get("segmenter"), rotation=rotation)
    calibration, appearance = Calibration(**arrays["calibration.npz"]), Appearance(**arrays["appearance.npz"])
    bank, references = Bank(**arrays["bank.npz"]), arrays.get("references.npz", {}).get("pixels")
    return make_detector(config, model, bank, references, appearance, facts["step"], held_out, regions, calibration)


def gan_of(config: Config) -> GAN:
    """Return the GAN that a config describes."""
    return make_gan(**vars(config.model), objective=config.train.objective)


def scorer_of(detector: Detector) -> Callable[[Iterable[np.ndarray]], Iterator[Score]]:
    """Return the detector's scorer of images of the model's size, on all devices of this process."""
    scorer = make_scorer(**_settings(detector), mesh=make_mesh(jax.local_devices()))
    return partial(scorer, detector.model)


def in_regions(detector: Detector, queries: Images) -> Images:
    """Return the queries, cropped, with the pixels outside their region of interest replaced by the region's mean.

    Queries that have the field ``region`` already are only cropped.

    Raises:
      UserError: the queries need a folder of masks, and ``data.roi`` is not their folder.
    """
    data = detector.config.data
    return cropped(within(queries, data.roi, detector.regions.mask), data.crop)


def findings_of(detector: Detector, queries: Images, what: str = "", first: int = 0) -> Iterator[Finding]:
    """Yield the finding of each query from number ``first`` on, as the detector scores it; see ``score_queries``."""
    queries = in_regions(detector, queries)
    judge, levels = make_judge(detector.appearance, tree_of), _levels(detector.calibration)
    return score_queries(scorer_of(detector), queries, detector.config, what, first, judge, *levels)


def _levels(calibration: Calibration) -> tuple[float, float]:
    return float(calibration.level), float(calibration.rotation_factor)


def held_out_images(detector: Detector) -> tuple[Images, Config]:
    """Return the held-out images that a detector keeps, with their regions, and a config for them.

    They were cropped and resized when they were held out, so this config does neither.
    """
    regions, as_prepared = detector.regions, {"patches.scale": 1.0, "data.crop": None}
    images = from_list(detector.held_out or [], detector.config.model.channels, "held-out images")
    if regions.held_out:
        images = images._replace(region=regions.held_out.__getitem__)
    return images, configs.with_values(detector.config, as_prepared)


def _rotates(detector: Detector) -> bool:
    """Return whether the detector has a rotation network that contributes to its scores."""
    return bool(detector.model.rotation and detector.config.rotation.weight)


def _features_of(gan: GAN, config: Config) -> Features:
    """Return the feature space of the search."""
    model, search = config.model, config.search
    of = (gan.discriminator, search.feature_layer) if search.features == "discriminator" else ()
    return make_features(search.features, model.image_size, model.channels, *of)


def _settings(detector: Detector) -> dict[str, Any]:
    """Return the arguments of ``make_program`` for a detector."""
    gan, config, of = detector.gan, detector.config, detector.config.search
    names = ("steps", "optimizer", "learning_rate", "discrimination", "discrimination_weight", "feature_layer")
    segmentation = None
    if detector.model.segmenter and config.segmenter.weight:
        segmentation = Segmentation(
            make_segmenter(gan), config.segmenter.weight, config.train.flip, config.pooling.share
        )
    return {
        "gan": gan,
        "search": make_search(gan, _features_of(gan, config), **{name: getattr(of, name) for name in names}),
        "start": of.start,
        "starts": of.starts,
        "reference_weight": of.reference_weight,
        "encoder": make_encoder(gan),
        "segmentation": segmentation,
        "rotation": make_rotation_network(gan) if _rotates(detector) else None,
        "seed": config.seed,
    }


def _configured(detector: Detector, config: Config) -> Detector:
    """Return the detector with these settings and the neighbours that they need; not calibrated."""
    search, index, references = config.search, None, None
    features, weights = _features_of(detector.gan, config), detector.model.weights
    if search.start == "encoder" and detector.model.encoder is None:
        raise UserError("search.start=encoder: the detector has no encoder; train with --config.encoder.steps=2000")
    if search.start == "bank":
        index = make_index(detector.bank, features, weights)
    if search.reference_weight and detector.references is not None:
        references = make_neighbours(to_networks(detector.references, config), features, weights)
    return detector._replace(config=config, model=detector.model._replace(bank_index=index, references=references))


def _calibrated(detector: Detector) -> Detector:
    """Return the detector, calibrated with its held-out images; without any it is uncalibrated."""
    config, held_out, regions = detector.config, detector.held_out, detector.regions
    if not held_out:
        return detector._replace(calibration=_UNCALIBRATED)
    images, as_prepared = held_out_images(detector)
    findings = findings_of(detector._replace(config=as_prepared, calibration=_UNCALIBRATED), images, "calibrating")
    inside = regions.held_out or (np.ones(image.shape[:2], bool) for image in held_out)
    found = [
        (finding.score, finding.appearance, finding.rotation, np.quantile(finding.anomaly_map[region], 0.99))
        for finding, region in zip(findings, inside, strict=False)  # ``with_search`` takes the first only
    ]
    scores, appearance, rotation, map_levels = np.array(found).T
    factor = np.array(config.rotation.weight * scores.std() if _rotates(detector) else 0.0)
    scores = scores + factor * rotation
    level = appearance_level(scores, appearance)
    calibration = Calibration(combine(scores, appearance, level), map_levels, np.array(level), factor)
    detector = detector._replace(calibration=calibration)
    if config.data.keep_held_out:
        return detector
    return detector._replace(held_out=None, regions=regions._replace(held_out=[]))


def _stored(detector: Detector) -> tuple[dict[str, dict[str, np.ndarray]], dict[str, Any]]:
    """Return a detector's arrays by their files, and the rest of it as facts for JSON; ``load`` reads them."""
    model = jax.device_get(detector.model._replace(bank_index=None, references=None))
    variables = model.weights._asdict() | {"encoder": model.encoder, "segmenter": model.segmenter}
    variables |= {"rotation": model.rotation.network if model.rotation else None}
    variables = {name: found for name, found in variables.items() if found}
    files = {
        "weights.npz": flatten_dict(jax.tree.map(np.asarray, variables), sep="/"),
        "bank.npz": detector.bank._asdict(),
        "appearance.npz": detector.appearance._asdict(),
        "calibration.npz": detector.calibration._asdict(),
    }
    if model.rotation:
        files["rotation.npz"] = {name: found for name, found in model.rotation._asdict().items() if name != "network"}
    if detector.references is not None:
        files["references.npz"] = {"pixels": detector.references}
    if detector.held_out is not None:
        files["held_out.npz"] = joined(detector.held_out)
    if detector.regions.held_out:
        files["held_out_regions.npz"] = joined(detector.regions.held_out)
    if detector.regions.mask is not None:
        files["roi.npz"] = {"mask": detector.regions.mask}
    facts = {"version": __version__, "step": detector.step, "config": dataclasses.asdict(detector.config)}
    return files, facts
