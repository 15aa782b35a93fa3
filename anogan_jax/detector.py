"""A trained detector: one value that scores images, and that is saved to and loaded from a folder."""

import dataclasses
import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from anogan_jax import config as configs
from anogan_jax.appearance import Appearance, combine, make_judge
from anogan_jax.bank import Bank, make_index
from anogan_jax.calibration import Calibration, p_values, rotation_scale
from anogan_jax.config import Config, SearchConfig
from anogan_jax.data import Images, from_user
from anogan_jax.data.images import from_list, read_arrays
from anogan_jax.devices import make_mesh
from anogan_jax.errors import UserError
from anogan_jax.features import make_features
from anogan_jax.files import digest
from anogan_jax.models import GAN, Weights, make_encoder, make_gan, make_rotation_network, make_segmenter
from anogan_jax.queries import Finding, score_queries
from anogan_jax.scoring import Model, Score, Scorer, Segmentation, make_scorer
from anogan_jax.search import make_search
from anogan_jax.version import __version__

log = logging.getLogger(__name__)
_CALIBRATING = 64  # held-out images that calibrate a search tried for comparison
_LEVEL = 0.95  # quantile of A(x) of held-out images: the score of an appearance at its limit
_FORMAT = 4  # of the saved folder
_NETWORKS = ("encoder", "segmenter", "rotation")  # of Model, beside the GAN, where they were trained
_UNCALIBRATED = Calibration(np.zeros(0), np.zeros(0), np.zeros(()), np.zeros(()))


class Result(NamedTuple):
    """Scores of N images. Maps and reconstructions have the images' sizes: a list where those differ."""

    score: np.ndarray  # (N,) float64, higher is more anomalous
    p_value: np.ndarray  # (N,) float64 in (0, 1], see ``p_values``
    is_anomaly: np.ndarray  # (N,) bool, p_value <= alpha
    anomaly_map: Any  # (N, H, W) float32 where the image and its reconstruction differ, at least 0
    reconstruction: Any  # (N, H, W, C) uint8
    residual: np.ndarray  # (N,) float64 R(x)
    discrimination: np.ndarray  # (N,) float64 D(x)
    damage: np.ndarray  # (N,) float64 S(x) of the segmenter, 0 without one
    rotation: np.ndarray  # (N,) float64 T(x) of the rotation network, 0 without one
    appearance: np.ndarray  # (N,) float64 distance of brightness, contrast, noise, colour; above 1 it raises the score
    term: np.ndarray  # (N,) str, what each score is of: "reconstruction" (A(x)), "appearance" or "detail"


class Detector(NamedTuple):
    """Everything that scoring needs of a training run; complete, and independent of the training data."""

    config: Config  # settings that train, fixed; settings that score
    gan: GAN  # static
    model: Model  # arrays on the device: weights, encoder, index of the bank
    bank: Bank  # where searches start
    appearance: Appearance  # of normal images
    held_out: list[np.ndarray] | None  # M normal images (H, W, C) uint8 at the model's size; None if not kept
    calibration: Calibration  # of the held-out images under these settings
    step: int  # training steps done

    def score(self, images: Any) -> Result:
        """Score images; an image's score depends on nothing but the image and the detector.

        Args:
          images: uint8, or floats in [-1, 1], (N, H, W) or (N, H, W, C) of any size; a list of such images; or the
            path of an image, a folder, an .npy or an .npz file, whose floats lie in [0, 1].

        Raises:
          UserError: an image cannot be read, or floats are on another scale than [-1, 1].
        """
        queries = from_user(images, self.config.model.channels)
        findings = list(findings_of(self, queries))
        for number, finding in enumerate(findings):
            if not finding.is_readable:
                queries.read(number)  # raises the reason
        fields = [name for name in Result._fields if name in Finding._fields and name != "term"]
        values = {name: _stacked([getattr(finding, name) for finding in findings]) for name in fields}
        p = p_values(values["score"], self.calibration.scores)
        spoke = np.array([finding.term for finding in findings])
        return Result(p_value=p, is_anomaly=p <= self.config.alpha, term=spoke, **values)

    def with_config(self, config: Config) -> "Detector":
        """Return the detector with other scoring settings, calibrated anew from the held-out images if needed.

        Raises:
          UserError: a training setting differs, an encoder is asked for that was not trained, or held-out images are
            needed and were not kept.
        """
        config = configs.validate(config)
        mine, theirs = configs.to_fields(self.config), configs.to_fields(config)
        changed = [name for name in mine if mine[name] != theirs[name]]
        for name in changed:
            given = f"{name}={theirs[name]!r}"
            if not configs.is_scoring(name):
                raise UserError(f"{given}: is fixed by training, with {mine[name]!r}; train again to change it")
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
        """Return the detector with another search, calibrated by few held-out images: for scores without p-values.

        Args:
          search: its settings.
          values: of further scoring settings, by their dotted names, such as "segmenter.weight".
        """
        configured = _configured(self, configs.with_values(self.config, {"search": search} | (values or {})))
        return _calibrated(configured._replace(held_out=(self.held_out or [])[:_CALIBRATING]))

    def save(self, folder: str | Path) -> None:
        """Write the detector to ``folder/detector``, complete or not at all.

        Raises:
          UserError: the folder holds a detector already, or cannot be written.
        """
        target = Path(folder) / "detector"
        if target.exists():
            raise UserError(f"{target}: exists already; give another folder, or remove it")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=".detector-", dir=target.parent) as temporary:
                unfinished = Path(temporary) / "detector"
                unfinished.mkdir()
                _write(self, unfinished)
                unfinished.rename(target)
        except OSError as error:
            raise UserError(f"{target}: cannot be written: {error.strerror or error}") from error


def make_detector(
    config: Config,
    model: Model,
    bank: Bank,
    appearance: Appearance,
    step: int,
    held_out: list[np.ndarray] | None,
    calibration: Calibration | None = None,
) -> Detector:
    """Return a complete detector: the bank indexed, the held-out images scored.

    Args:
      config: all settings.
      model: the trained weights; the index of the bank is made here.
      bank: where searches start.
      appearance: of normal images.
      step: training steps done.
      held_out: M normal images that training never saw, as ``resized_images`` returns them; kept in the detector
        unless ``data.keep_held_out`` is False.
      calibration: of the held-out images, if it is known.
    """
    detector = Detector(config, gan_of(config), jax.device_put(model), bank, appearance, held_out, _UNCALIBRATED, step)
    detector = _configured(detector, config)
    return detector._replace(calibration=calibration) if calibration else _calibrated(detector)


def load(folder: str | Path) -> Detector:
    """Load a detector that training or ``Detector.save`` left in a folder.

    Raises:
      UserError: there is none, or a file of it is missing or damaged.
    """
    path = Path(folder) / "detector"
    path = path if path.is_dir() else Path(folder)
    if not (path / "detector.json").is_file():
        raise UserError(f"{folder}: holds no trained detector; run train.py first, or again if it was interrupted")
    facts = _facts(path / "detector.json")
    for name, known in facts["files"].items():
        if not (path / name).is_file() or digest(path / name) != known:
            raise UserError(f"{path / name}: damaged or missing; copy the folder again, or train again")
    arrays = {name: read_arrays(path / name) for name in facts["files"]}
    variables: Any = unflatten_dict(arrays["weights.npz"], sep="/")
    held_out = None
    if "held_out.npz" in arrays:
        pixels, shapes = arrays["held_out.npz"]["pixels"], arrays["held_out.npz"]["shapes"]
        parts = np.split(pixels, np.cumsum(shapes.prod(axis=1))[:-1])
        held_out = [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]
    config = configs.from_json(json.dumps(facts["config"]), f"{path / 'detector.json'}: ")
    weights = Weights(variables["generator"], variables["discriminator"])
    model = Model(weights, **{name: variables.get(name) for name in _NETWORKS})
    calibration, appearance = Calibration(**arrays["calibration.npz"]), _appearance(arrays["appearance.npz"])
    bank, step = Bank(**arrays["bank.npz"]), facts["step"]
    return make_detector(config, model, bank, appearance, step, held_out, calibration)


def gan_of(config: Config) -> GAN:
    """Return the GAN that a config describes."""
    return make_gan(**vars(config.model), objective=config.train.objective)


def scorer_of(detector: Detector) -> Callable[[Iterable[np.ndarray]], Iterator[Score]]:
    """Return the detector's scorer of images of the model's size, on all devices of this process."""
    config, devices = detector.config, tuple(jax.local_devices())
    segmentation = None
    if detector.model.segmenter and config.segmenter.weight:
        of = make_segmenter(detector.gan)
        segmentation = Segmentation(of, config.segmenter.weight, config.train.flip, config.pooling.share)
    search, rotates = dataclasses.astuple(config.search), _rotates(detector)
    scorer = _scorer(detector.gan, config.model.channels, search, segmentation, rotates, config.seed, devices)
    return partial(scorer, detector.model)


def findings_of(detector: Detector, queries: Images, what: str = "", first: int = 0) -> Iterator[Finding]:
    """Yield the finding of each query from number ``first`` on, as the detector scores it; see ``score_queries``."""
    judge, calibration = make_judge(detector.appearance), detector.calibration
    levels = (float(calibration.level), float(calibration.rotation_factor))
    return score_queries(scorer_of(detector), queries, detector.config, what, first, judge, *levels)


def _rotates(detector: Detector) -> bool:
    """Return whether the detector has a rotation network that takes part in its scores."""
    return bool(detector.model.rotation and detector.config.rotation.weight)


@lru_cache(maxsize=16)
def _scorer(
    gan: GAN,
    channels: int,
    settings: tuple,
    segmentation: Segmentation | None,
    rotates: bool,
    seed: int,
    devices: tuple[jax.Device, ...],
) -> Scorer:
    """Return the compiled scorer for these settings, the same one whenever they are the same."""
    of, size = SearchConfig(*settings), gan.generator.image_size
    features = make_features(of.features, size, channels)
    names = ("steps", "optimizer", "learning_rate", "discrimination", "discrimination_weight", "feature_layer")
    search = make_search(gan, features, **{name: getattr(of, name) for name in names})
    networks = {"encoder": make_encoder(gan), "rotation": make_rotation_network(gan) if rotates else None}
    mesh = make_mesh(devices)
    return make_scorer(gan, search, of.start, of.starts, **networks, segmentation=segmentation, seed=seed, mesh=mesh)


def _configured(detector: Detector, config: Config) -> Detector:
    """Return the detector with these settings and the index of the bank that they need; not calibrated."""
    search, index = config.search, None
    if search.start == "encoder" and detector.model.encoder is None:
        raise UserError("search.start=encoder: the detector has no encoder; train with --config.encoder.steps=2000")
    if search.start == "bank":
        index = make_index(
            detector.bank, make_features(search.features, config.model.image_size, config.model.channels)
        )
    return detector._replace(config=config, model=detector.model._replace(bank_index=index))


def _calibrated(detector: Detector) -> Detector:
    """Return the detector with the scores of its held-out images, uncalibrated if it has none."""
    config, held_out = detector.config, detector.held_out
    if not held_out:
        return detector._replace(calibration=_UNCALIBRATED)
    images = from_list(held_out, config.model.channels, "held-out images")
    as_resized = dataclasses.replace(config, patches=dataclasses.replace(config.patches, scale=1.0))
    findings = findings_of(detector._replace(config=as_resized, calibration=_UNCALIBRATED), images, "calibrating")
    found = [(f.score, f.appearance, f.rotation, f.told, np.quantile(f.anomaly_map, 0.99)) for f in findings]
    scores, appearance, rotation, told, map_levels = np.array(found).T
    factor = np.zeros(())
    if _rotates(detector):
        factor = np.array(config.rotation.weight * rotation_scale(scores, rotation, told.mean()))
        log.info("%.1f %% of the quarter turns of %d held-out images are told", 100 * told.mean(), len(held_out))
        if not factor:
            log.warning("the rotation network takes no part: it tells their turns by chance, or they do not differ")
    scores = scores + factor * rotation
    level = np.quantile(scores, _LEVEL)
    calibration = Calibration(combine(scores, appearance, level), map_levels, level, factor)
    return detector._replace(calibration=calibration, held_out=held_out if config.data.keep_held_out else None)


def _write(detector: Detector, folder: Path) -> None:
    """Write a detector's files into an empty folder, the description with their digests last."""
    model = jax.device_get(detector.model._replace(bank_index=None))
    networks = {name: getattr(model, name) for name in _NETWORKS}
    variables = model.weights._asdict() | {name: found for name, found in networks.items() if found}
    files = {
        "weights.npz": flatten_dict(jax.tree.map(np.asarray, variables), sep="/"),
        "bank.npz": detector.bank._asdict(),
        "appearance.npz": _flat(detector.appearance),
        "calibration.npz": detector.calibration._asdict(),
    }
    if detector.held_out is not None:
        pixels = np.concatenate([image.ravel() for image in detector.held_out])
        files["held_out.npz"] = {"pixels": pixels, "shapes": np.array([image.shape for image in detector.held_out])}
    for name, arrays in files.items():
        with (folder / name).open("wb") as file:
            np.savez(file, **arrays)
            file.flush()
            os.fsync(file.fileno())
    facts = {
        "format": _FORMAT,
        "version": __version__,
        "step": detector.step,
        "config": dataclasses.asdict(detector.config),
        "files": {name: digest(folder / name) for name in files},
    }
    text = json.dumps(facts | {"digest": _digest(facts)}, indent=2)
    (folder / "detector.json").write_text(text + "\n")


def _flat(appearance: Appearance) -> dict[str, np.ndarray]:
    """Return an appearance as named arrays; ``_appearance`` is the inverse."""
    values, windows = appearance._asdict(), appearance.windows
    return values | {"windows": np.concatenate(windows), "counts": np.array([len(each) for each in windows])}


def _appearance(arrays: dict[str, np.ndarray]) -> Appearance:
    windows = np.split(arrays["windows"], np.cumsum(arrays["counts"])[:-1])
    return Appearance._make([*(arrays[name] for name in Appearance._fields[:-1]), windows])


def _facts(path: Path) -> dict[str, Any]:
    """Return the description of a saved detector; raise UserError if it is damaged or of another format."""
    try:
        facts = json.loads(path.read_text())
        is_intact = facts.pop("digest") == _digest(facts)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        is_intact = False
    if not is_intact:
        raise UserError(f"{path}: damaged; copy the folder again, or train again")
    if facts["format"] != _FORMAT:
        raise UserError(f"{path}: has format {facts['format']}, this version reads {_FORMAT}; train again")
    return facts


def _digest(facts: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _stacked(values: list[Any]) -> Any:
    return np.array(values) if len({np.shape(value) for value in values}) == 1 else values
