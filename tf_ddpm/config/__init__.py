"""The configuration of a run. It imports no TensorFlow, so that a wrong value is reported at once.

  schema   the keys with their defaults, ranges and help     parsing  of keys: one by one, and compared
  rules    what must fit together                            file    config.json
  labels   labels as users write them                        presets named configurations
  remarks  what is rarely meant

`tf_ddpm/build.py` is the only place that turns words into objects.
"""

from tf_ddpm.config.autoencoder import AutoencoderConfig, CodecConfig, LatentScale
from tf_ddpm.config.distillation import DistillConfig
from tf_ddpm.config.file import from_json, portable, said, to_json
from tf_ddpm.config.labels import check_label, parse_label
from tf_ddpm.config.parsing import Key, changed, closest, get, keys, with_settings, with_values
from tf_ddpm.config.remarks import idle, warnings
from tf_ddpm.config.rules import validated
from tf_ddpm.config.schema import (
    DECODER,
    FORMAT_VERSION,
    Config,
    DataConfig,
    DiffusionConfig,
    ModelConfig,
    SampleConfig,
)
from tf_ddpm.config.training import TrainConfig

__all__ = [
    "DECODER", "FORMAT_VERSION",
    "AutoencoderConfig", "CodecConfig", "Config", "DataConfig", "DiffusionConfig", "DistillConfig", "Key",
    "LatentScale", "ModelConfig", "SampleConfig", "TrainConfig",
    "changed", "check_label", "closest", "from_json", "get", "idle", "keys", "parse_label", "portable", "said",
    "to_json", "validated", "warnings", "with_settings", "with_values",
]  # fmt: skip
