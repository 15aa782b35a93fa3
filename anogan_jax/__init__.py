"""AnoGAN in JAX and Flax: anomaly detection learnt from normal images alone (Schlegl et al. 2017)."""

from anogan_jax.calibration import p_values, threshold
from anogan_jax.data import to_model_range
from anogan_jax.losses import (
    cross_entropy_loss,
    discriminator_loss,
    feature_matching_loss,
    generator_loss,
    residual_loss,
)
from anogan_jax.models import GAN, Discriminator, Generator, Weights, make_gan, sample_latent
from anogan_jax.scoring import Scores, make_discriminator_score, make_search_score, score_images
from anogan_jax.search import SearchResult, latent_search
from anogan_jax.training import TrainState, inference_weights, init_state, make_optimizer, make_train_step
from anogan_jax.version import __version__

__all__ = [
    "GAN",
    "Discriminator",
    "Generator",
    "Scores",
    "SearchResult",
    "TrainState",
    "Weights",
    "__version__",
    "cross_entropy_loss",
    "discriminator_loss",
    "feature_matching_loss",
    "generator_loss",
    "inference_weights",
    "init_state",
    "latent_search",
    "make_discriminator_score",
    "make_gan",
    "make_optimizer",
    "make_search_score",
    "make_train_step",
    "p_values",
    "residual_loss",
    "sample_latent",
    "score_images",
    "threshold",
    "to_model_range",
]
