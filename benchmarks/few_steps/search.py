"""The fewest steps that are good enough."""

from collections.abc import Callable, Iterable


def fewest(names: Iterable[str], fid: Callable[[str, int], float], wanted: float, most: int) -> tuple[str, int] | None:
    """Who reaches the `wanted` FID in the fewest steps, the first of several, and in how many; None: no one does.

    Found by bisection, for more steps draw better.

    Args:
      fid: of a name and 2 to `most` steps.
    """
    best = None
    for name in names:
        low, high = 2, best[1] - 1 if best else most
        steps = high if best else (low + high) // 2  # after the first, one has to do with fewer
        while low <= high:
            if fid(name, steps) <= wanted:
                best, high = (name, steps), steps - 1
            else:
                low = steps + 1
            steps = (low + high) // 2
    return best
