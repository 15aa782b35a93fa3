"""The typed configuration: what ``get_config()`` in configs/*.py returns.

Nothing that is compiled sees it; factories take its values.
"""

import dataclasses
import json
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from anogan_jax.atomic import replacing
from anogan_jax.errors import UserError


@dataclass
class DataConfig:
    """Which images, and which of them are normal."""

    source: str = "auto"  # auto (what is there: tfds, idx, packaged), tfds, idx, npz, folder or packaged
    name: str = ""  # the data set's name in TFDS, or of its idx folder, or packaged: mnist, digits
    dir: str = ""  # where the files are; for npz the file itself
    normal: int | None = None  # this class is normal, all others are anomalous
    anomalous: int | None = None  # this class is anomalous, all others are normal
    normalize_contrast: bool = False  # take each image's own brightness and contrast out of it
    held_out: float = 0.1  # share of the normal training images kept for p-values
    contamination: float = 0.0  # share of anomalous images among those trained on, to see what it costs
    test_limit: int | None = None  # score a fixed random sample of this many test images


@dataclass
class PatchConfig:
    """Images larger than the model, by patches of its size; or whole images, resized to it."""

    enabled: bool = False
    scale: float = 1.0  # images are enlarged or reduced by this first
    min_contrast: float = 0.0  # standard deviation in grey levels; emptier patches are neither trained on nor scored
    stride: int | None = None  # of the tiles to score, in pixels; None: half a patch
    pooling: str = "top"  # an image's score, from its map: max, quantile (1 - share), or top, the mean above that
    share: float = 0.01  # of the map's pixels


@dataclass
class ModelConfig:
    """The DCGAN."""

    image_size: int = 32  # 8, 16, 32, 64, ...
    channels: int = 1
    width: int = 32  # features of the layer next to the image; doubled at each halving of the size
    kernel_size: int = 4  # 4 or 5
    latent_size: int = 32
    latent_prior: str = "normal"  # normal or uniform
    precision: str = "float32"  # of the computation; or bfloat16, on accelerators


@dataclass
class TrainConfig:
    """Adversarial training."""

    objective: str = "gan"  # or wgan_gp, with a beta1 of 0: a critic under a gradient penalty
    steps: int = 4_000
    batch_size: int = 64
    learning_rate: float = 2e-4
    beta1: float = 0.5  # of Adam
    ema_decay: float = 0.999  # of the averaged generator, the one that scores
    flip: bool = False  # mirror each image at random, left to right and top to bottom
    rotate: bool = False  # turn each image at random by quarters
    log_every: int = 50  # steps
    sample_every: int = 500  # steps
    checkpoint_every: int = 500  # steps
    tensorboard: bool = False  # also write losses and samples as TensorBoard's event files


@dataclass
class EncoderConfig:
    """An encoder trained after the GAN: images to z, for search.method encoder and from_encoder."""

    steps: int = 0  # none
    learning_rate: float = 5e-4
    feature_weight: float = 1.0  # kappa of izif (Schlegl et al. 2019); 0: izi


@dataclass
class SearchConfig:
    """How the z that explains an image is found, and so the score."""

    method: str = "bank"  # one of METHODS in run.py: bank, nearest, from_encoder, encoder, paper
    yardstick: str = "pixels"  # what R compares; or structure, the edges by direction and place
    references: int = 8_192  # nearest: at most so many training images explained; 0, or by patches, the bank instead
    neighbours: int = 8  # nearest: an image is compared with the mean of so many of these
    nearest_by: str | None = None  # nearest: the yardstick that these are found by; None: yardstick
    prior_weight: float = 0.0  # of |z|^2 / 2, how unlikely z is a priori, beside the loss
    steps: int | None = None  # at most so many; None: 64, for method paper 500
    learning_rate: float | None = None  # at its height; None: 1, for method paper 0.1, all the time
    tolerance: float = 1e-4  # done once eight of the later steps gain less than this share
    bank_size: int = 32_768  # images
    restarts: int = 1  # starts for each image, the nearest of the bank or random ones; the best counts
    discrimination: str = "feature_matching"  # or cross_entropy (Yeh et al. 2016)
    discrimination_weight: float = 0.1  # lambda
    feature_layer: int = -1  # the discriminator's hidden layer that feature matching compares


@dataclass
class Config:
    """All of it."""

    data: DataConfig = field(default_factory=DataConfig)
    patches: PatchConfig = field(default_factory=PatchConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    search: SearchConfig = field(default_factory=SearchConfig)
    alpha: float = 0.05  # an image is called an anomaly at p-value <= alpha
    seed: int = 0


def to_fields(config: Config) -> dict[str, Any]:
    """Every field by its dotted name."""
    return dict(_walk(config, ""))


def differences(ours: Config, theirs: Config) -> list[str]:
    """The fields that differ, as ``name=ours, not theirs``."""
    others = to_fields(theirs)
    pairs = [(name, value, others[name]) for name, value in to_fields(ours).items()]
    return [f"{name}={value!r}, not {other!r}" for name, value, other in pairs if value != other]


def validate(config: Config) -> None:
    """Raises UserError at the first field whose value cannot work, naming it."""
    fields = to_fields(config)
    for name, allowed in _CHOICES.items():
        if fields[name] not in allowed:
            raise UserError(f"{name}={fields[name]!r}: must be one of {', '.join(map(str, allowed))}")
    for name, least in _AT_LEAST.items():
        if fields[name] is not None and fields[name] < least:
            raise UserError(f"{name}={fields[name]}: must be at least {least}")
    for name in ("train.learning_rate", "encoder.learning_rate", "search.learning_rate", "patches.scale"):
        if fields[name] is not None and not fields[name] > 0:
            raise UserError(f"{name}={fields[name]}: must be above 0")
    for name in ("data.held_out", "alpha"):
        if not 0 < fields[name] < 1:
            raise UserError(f"{name}={fields[name]}: must lie between 0 and 1")
    for name in ("search.discrimination_weight", "train.ema_decay", "train.beta1"):
        if not 0 <= fields[name] <= 1:
            raise UserError(f"{name}={fields[name]}: must lie in [0, 1]")
    if not 0 <= config.data.contamination < 1:
        raise UserError(f"data.contamination={config.data.contamination}: must be at least 0 and below 1")
    if not 0 < fields["patches.share"] <= 1:
        raise UserError(f"patches.share={fields['patches.share']}: must be above 0 and at most 1")
    size = config.model.image_size
    if config.patches.stride is not None and config.patches.stride > size:
        raise UserError(
            f"patches.stride={config.patches.stride}: must be at most model.image_size={size}, or pixels are left out"
        )
    if size < 8 or size & (size - 1):
        raise UserError(f"model.image_size={size}: must be 8, 16, 32, 64, ...")
    layers = size.bit_length() - 3
    if not -layers <= config.search.feature_layer < layers:
        raise UserError(
            f"search.feature_layer={config.search.feature_layer}: a discriminator for {size}x{size} has {layers} "
            f"hidden layers, 0 to {layers - 1}"
        )
    if config.search.method in ("from_encoder", "encoder") and not config.encoder.steps:
        raise UserError(
            f"encoder.steps=0: search.method={config.search.method} needs an encoder; give it steps, such as 2000"
        )
    if config.data.normal is not None and config.data.anomalous is not None:
        raise UserError("data.normal and data.anomalous are both set: give one")


def save(config: Config, path: Path) -> None:
    """Writes the config as JSON."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(dataclasses.asdict(config), indent=2) + "\n")


def load(path: Path) -> Config:
    """Reads what ``save`` wrote.

    Raises:
      UserError: no such file, not JSON, an unknown field or a wrong type.
    """
    try:
        config = _build(Config, json.loads(path.read_text()), path, "")
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise UserError(f"{path}: not a JSON file: {error}") from error
    validate(config)
    return config


_CHOICES: dict[str, tuple] = {
    "data.source": ("auto", "tfds", "idx", "npz", "folder", "packaged"),
    "model.kernel_size": (4, 5),
    "model.latent_prior": ("normal", "uniform"),
    "model.precision": ("float32", "bfloat16"),
    "patches.pooling": ("max", "quantile", "top"),
    "search.method": ("bank", "nearest", "from_encoder", "encoder", "paper"),
    "search.yardstick": ("pixels", "structure"),
    "search.nearest_by": (None, "pixels", "structure"),
    "train.objective": ("gan", "wgan_gp"),
    "search.discrimination": ("feature_matching", "cross_entropy"),
}
_AT_LEAST = {
    "data.test_limit": 1,
    "patches.stride": 1,
    "patches.min_contrast": 0,
    "model.channels": 1,
    "model.width": 1,
    "model.latent_size": 1,
    "train.steps": 1,
    "train.batch_size": 2,
    "train.log_every": 1,
    "train.sample_every": 1,
    "train.checkpoint_every": 1,
    "encoder.steps": 0,
    "encoder.feature_weight": 0,
    "search.references": 0,
    "search.neighbours": 1,
    "search.prior_weight": 0,
    "search.steps": 1,
    "search.restarts": 1,
    "search.bank_size": 1,
    "search.tolerance": 0,
    "seed": 0,
}


def _walk(node: Any, prefix: str) -> list[tuple[str, Any]]:
    found = []
    for part in dataclasses.fields(node):
        value = getattr(node, part.name)
        name = prefix + part.name
        found += _walk(value, name + ".") if dataclasses.is_dataclass(value) else [(name, value)]
    return found


def _build(cls: type, values: Any, path: Path, prefix: str) -> Any:
    """A dataclass from parsed JSON, every field checked against its annotation."""
    if not isinstance(values, dict):
        raise UserError(f"{path}: {prefix.rstrip('.') or 'the file'} must be a JSON object")
    hints = typing.get_type_hints(cls)
    unknown = [name for name in values if name not in hints]
    if unknown:
        raise UserError(f"{path}: unknown field {prefix}{unknown[0]}")
    built = {}
    for name, value in values.items():
        hint = hints[name]
        if dataclasses.is_dataclass(hint):
            built[name] = _build(typing.cast(type, hint), value, path, f"{prefix}{name}.")
            continue
        allowed = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
        if float in allowed and type(value) is int:
            value = float(value)
        if type(value) not in allowed:
            wanted = " or ".join(kind.__name__.replace("NoneType", "null") for kind in allowed)
            raise UserError(f"{path}: {prefix}{name}={value!r}: must be {wanted}")
        built[name] = value
    return cls(**built)
