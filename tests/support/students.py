"""A tiny teacher and the configurations of its students."""

from tests.support.tiny import make_tiny_config
from tf_ddpm.config import students
from tf_ddpm.runs import configuration
from tf_ddpm.training import loop

SHORT = ("train.steps=8", "train.checkpoint_every=2", "train.keep=4", "train.log_every=2", "train.preview_images=4")
METHODS = {
    "consistency": (*SHORT, "distill.stages=2", "distill.probe_every=2", "distill.probe_images=16"),
    "progressive": (*SHORT, "distill.teacher_steps=4", "distill.steps=1", "train.warmup_steps=1"),
}


def train_teacher(path):
    """A run with classes that predicts v, and its checkpoint after half of the updates."""
    config = make_tiny_config(
        diffusion__prediction="v",
        model__classes=10,
        model__null_class=True,
        model__dropout=0.1,
        train__label_dropout=0.1,
        train__learning_rate=5e-3,
        train__guide_at=(0.5,),
    )
    loop.run(config, path)


def student_config(teacher_dir, method, *settings):
    """Of a new student of the run in `teacher_dir`."""
    own = configuration.read(teacher_dir)
    return students.student_of(own, str(teacher_dir), method, [*METHODS[method], *settings])
