"""Picture files as this project and as ImageMagick read them.  python -m benchmarks.picture_files FOLDER

For example the files with which Pillow is tested (`Tests/images` in its source distribution). Prints, for each format,
how many agree within 2 grey levels at every pixel, and the others by name. Needs `convert` of ImageMagick, and an sRGB
profile (Debian: imagemagick, icc-profiles-free).
"""

import collections
import io
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from tf_ddpm.datasets.pictures import Reader, Rules

_SRGB = "/usr/share/color/icc/sRGB.icc"
_LEVELS = 2


def seen_by_imagemagick(file: Path, profiled: bool) -> np.ndarray | None:
    """int [H, W, 3]; None where it cannot read the file."""
    words = ["-auto-orient", "-intent", "Relative", "+black-point-compensation"]
    words += ["-profile", _SRGB] if profiled else []
    words += ["-colorspace", "sRGB", "-background", "white", "-alpha", "remove", "-alpha", "off"]
    words += ["-depth", "8", "PPM:-"]
    try:
        done = subprocess.run(["convert", f"{file}[0]", *words], capture_output=True, timeout=60)
        return np.asarray(Image.open(io.BytesIO(done.stdout)).convert("RGB")).astype(int)
    except (subprocess.TimeoutExpired, OSError):
        return None


def main(folder: str) -> None:
    """Prints the table."""
    files = sorted(path for path in Path(folder).rglob("*") if path.is_file())
    agreed, compared, others, bad = collections.Counter(), collections.Counter(), [], []
    with Reader(Rules()).open() as reader:
        for file in files:
            image = reader.read(file, None, 3)
            if not isinstance(image, np.ndarray):
                bad.append(image)
                continue
            with Image.open(file) as picture:
                kind, profiled = picture.format, bool(picture.info.get("icc_profile"))
            theirs = seen_by_imagemagick(file, profiled)
            if theirs is None:
                continue
            compared[kind] += 1
            near = theirs.shape == image.shape and np.abs(theirs - image).max() <= _LEVELS
            agreed[kind] += near
            others += [] if near else [f"{kind} {file.name}"]
    print(f"{len(files)} files: {len(files) - len(bad)} read, {len(bad)} with a reason why not")
    for kind, count in compared.most_common():
        print(f"{kind:5s} {agreed[kind]} of {count} agree")
    print("\n".join(others))


if __name__ == "__main__":
    main(sys.argv[1])
