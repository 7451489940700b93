"""How the equations see the network."""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

Denoiser = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]
