"""AnoGAN in JAX and Flax: anomaly detection learnt from normal images only (Schlegl et al. 2017)."""

from anogan_jax.appearance import fit_appearance
from anogan_jax.auxiliary import (
    NetworkState,
    init_network_state,
    make_encoder_loss,
    make_network_step,
    make_rotation_loss,
    make_segmenter_loss,
)
from anogan_jax.bank import Bank, Index, Neighbours, draw_bank, make_index, make_neighbours, retrieve
from anogan_jax.calibration import Calibration, threshold
from anogan_jax.config import PRESETS, Config, with_preset
from anogan_jax.detector import Detector, Result, load
from anogan_jax.devices import keep_compiled_programs, make_mesh
from anogan_jax.errors import UserError
from anogan_jax.features import Features, make_features
from anogan_jax.fit import default_config, fit
from anogan_jax.losses import (
    critic_generator_loss,
    critic_loss,
    cross_entropy_loss,
    discriminator_loss,
    encoding_loss,
    feature_matching_loss,
    generator_loss,
    gradient_penalty,
    rotation_loss,
    segmentation_loss,
)
from anogan_jax.models import (
    GAN,
    Discriminator,
    Encoder,
    Generator,
    Segmenter,
    Weights,
    make_encoder,
    make_gan,
    make_rotation_network,
    make_segmenter,
    sample_latent,
)
from anogan_jax.references import invert
from anogan_jax.runtime import Appearance, Score, make_judge, p_values, to_model_range
from anogan_jax.scoring import Model, Segmentation, make_program, make_scorer, score_images
from anogan_jax.search import Found, make_search
from anogan_jax.training import TrainState, inference_weights, init_state, make_optimizer, make_train_step
from anogan_jax.version import __version__
