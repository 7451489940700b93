"""What the papers show as pictures, drawn from a run."""

FIGURES = (
    "schedules",
    "forward",
    "samples",
    "progressive",
    "interpolation",
    "shared_prefix",
    "coding",
    "inpainting",
    "variation",
    "bound",
    "sweep",
    "guidance",
)
