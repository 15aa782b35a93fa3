"""Finished detectors, which ``anogan_jax.load("example:digits")`` loads, and the command that makes them."""
