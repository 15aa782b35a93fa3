"""AUROC of a detector, of the presets and parts of its score, and of baselines, on the same test images."""

import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import jax
import numpy as np

from anogan_jax.bank import bank_of_images
from anogan_jax.baselines import baselines_of
from anogan_jax.config import PRESETS, with_preset
from anogan_jax.data import Images, as_array, load_one_class, test_split, to_networks
from anogan_jax.detector import Detector, findings_of
from anogan_jax.devices import is_first, make_mesh
from anogan_jax.errors import UserError
from anogan_jax.evaluation import has_both, writing
from anogan_jax.queries import score_queries
from anogan_jax.report import print_table, write_comparison
from anogan_jax.runtime import Finding
from anogan_jax.scoring import make_discriminator_scorer

log = logging.getLogger(__name__)


def compare(detector: Detector, path: Path) -> dict[str, np.ndarray]:
    """Score the test split by the detector, each preset that it can run, P_D and the baselines; write AUROC as CSV.

    One baseline is the preset "nearest" with the training images as the bank; it shows what the generator contributes.

    Returns:
      The scores by name, (N,) each.

    Raises:
      UserError: the data set has no test split with normal and anomalous images.
    """
    data = load_one_class(detector.config, roi_mask=detector.regions.mask)
    if data.warning:
        log.warning("%s", data.warning)
    if data.test is None or not has_both(test := test_split(data)):
        has = "no test split" if data.test is None else "images of one kind"
        raise UserError(f"--compare: needs a test split with normal and anomalous images; {data.origin} has {has}")
    if detector.held_out is None:
        log.warning("no held-out images are kept: other settings are compared without appearance and rotation terms")
    methods: dict[str, Callable[[str], Iterator[Finding]]] = {
        name: partial(findings_of, of, test) for name, of in detectors_of(detector).items()
    }
    if not detector.config.patches.enabled:
        images = to_networks(as_array(data.train, detector.config), detector.config)
        search = replace(with_preset(detector.config, "nearest").search, reference_weight=0.0)
        neighbours = detector._replace(bank=bank_of_images(images, detector.gan.latent_size)).with_search(search)
        methods["kNN (k=8) of the training images, by structure"] = partial(findings_of, neighbours, test)
    for name, values in _parts_of(detector).items():
        methods[name] = partial(findings_of, detector.with_search(detector.config.search, values), test)
    if detector.model.rotation:
        methods["the rotation network alone"] = partial(rotation_alone, detector, test)
    discriminate = partial(make_discriminator_scorer(detector.gan, make_mesh(jax.local_devices())), detector.model)
    methods["P_D: the discriminator's output alone"] = partial(score_queries, discriminate, test, detector.config)
    every = {name: np.array([finding.score for finding in method(name)]) for name, method in methods.items()}
    readable = ~np.isnan(next(iter(every.values())))
    labels, scores = np.array(test.labels)[readable], {name: found[readable] for name, found in every.items()}
    if len(np.unique(labels)) < 2:
        raise UserError(
            f"--compare: needs readable normal and anomalous test images; those of {data.origin} are of one kind"
        )
    if is_first():
        scores |= baselines_of(detector.config, data.train, test)
        with writing(path.parent, [path.name], data.origin):
            rows = write_comparison(path, labels, scores)
        print_table(f"{len(labels)} test images ({data.origin}), in {path}", rows)
    return scores


def _parts_of(detector: Detector) -> dict[str, dict[str, float]]:
    """Return settings that leave out one part of the score, or use only that part, by their descriptions."""
    found: dict[str, dict[str, float]] = {}
    if detector.references is not None:
        found["as configured, without references"] = {"search.reference_weight": 0.0}
        found["as configured, references instead of the search"] = {"search.reference_weight": 1.0}
    if detector.model.segmenter:
        found["as configured, without the segmenter"] = {"segmenter.weight": 0.0}
        found["the segmenter alone"] = {"segmenter.weight": 1.0}
    if detector.model.rotation:
        found["as configured, without the rotation network"] = {"rotation.weight": 0.0}
    return found


def rotation_alone(detector: Detector, queries: Images, what: str) -> Iterator[Finding]:
    """Yield findings whose score is only T(x); the search, which has no effect on it, is the fastest."""
    search = with_preset(detector.config, "nearest").search
    rotating = detector.with_search(search, {"rotation.weight": 1.0})
    return (finding._replace(score=finding.rotation) for finding in findings_of(rotating, queries, what))


def detectors_of(detector: Detector) -> dict[str, Detector]:
    """Return the detector as configured, and with each other preset that it can run, by the preset's description."""
    found = {}
    for name, preset in PRESETS.items():
        search = with_preset(detector.config, name).search
        if search.start != "encoder" or detector.model.encoder is not None:
            is_configured = search == detector.config.search
            found[f"{name}: {preset.summary}"] = detector if is_configured else detector.with_search(search)
    return found if any(of is detector for of in found.values()) else {"as configured": detector} | found
