"""The noise schedule: betas, their running products, and shorter chains. NumPy float64 only."""

import numpy as np


def betas(
    schedule: str,
    timesteps: int,
    beta_start: float = 1e-4,
    beta_end: float = 0.02,
    sigma_min: float = 0.01,
    sigma_max: float = 50.0,
) -> np.ndarray:
    """The variances beta_t of q(x_t | x_{t-1}) (Ho et al. 2020, eq. 2).

    Args:
      schedule: `linear` (Ho et al. 2020, section 4), `quadratic` (linear in the square root),
        `constant` (beta_end everywhere), `cosine` (Nichol & Dhariwal 2021, eq. 17; ignores the end points) or `ve`
        (sigma / alpha grows geometrically from sigma_min to sigma_max: Song & Ermon 2019, section 4; the chain
        x + sigma eps of exploding variance, each x multiplied by alpha = 1 / sqrt(1 + sigma^2)).
      timesteps: T, the length of the chain.

    Returns:
      [T] float64; index t holds the beta of the papers' step t+1.

    Raises:
      ValueError: for an unknown schedule.
    """
    if schedule == "linear":
        return np.linspace(beta_start, beta_end, timesteps, dtype=np.float64)
    if schedule == "quadratic":
        return np.linspace(beta_start**0.5, beta_end**0.5, timesteps, dtype=np.float64) ** 2
    if schedule == "constant":
        return np.full(timesteps, beta_end, dtype=np.float64)
    if schedule == "cosine":
        time = np.arange(timesteps + 1, dtype=np.float64) / timesteps
        alpha_bar = np.cos((time + 0.008) / 1.008 * np.pi / 2) ** 2
        return np.minimum(1.0 - alpha_bar[1:] / alpha_bar[:-1], 0.999)
    if schedule == "ve":
        sigma = np.geomspace(sigma_max, sigma_min, timesteps)[::-1]  # a single level is the largest
        alpha_bar = 1.0 / (1.0 + sigma**2)
        return 1.0 - alpha_bar / np.concatenate([[1.0], alpha_bar[:-1]])
    raise ValueError(f"unknown schedule {schedule!r}: expected linear, quadratic, constant, cosine or ve")


def alpha_bars(beta: np.ndarray) -> np.ndarray:
    """alpha_bar_t = prod_{s<=t} (1 - beta_s) (Ho et al. 2020, eq. 4). [T] float64 in and out."""
    return np.cumprod(1.0 - beta)


def relative_sigmas(beta: np.ndarray) -> np.ndarray:
    """sqrt(1 - alpha_bar) / sqrt(alpha_bar), Karras et al.'s sigma of each step. [T] float64 in and out."""
    alpha_bar = alpha_bars(beta)
    return np.sqrt((1.0 - alpha_bar) / alpha_bar)


def karras_ends(
    relative_sigma: np.ndarray, sigma_min: float | None = None, sigma_max: float | None = None
) -> tuple[float, float]:
    """The ends of a grid over a chain with these levels [T]: as wanted, or the chain's least, and at most the 80 of
    Karras et al. 2022, table 1."""
    return sigma_min or float(relative_sigma[0]), sigma_max or min(float(relative_sigma[-1]), 80.0)


def karras_sigmas(sigma_min: float, sigma_max: float, steps: int, rho: float = 7.0) -> np.ndarray:
    """The grid of Karras et al. 2022, eq. 5: evenly spaced in sigma^(1/rho). A single step is sigma_max.

    Returns:
      [steps] float64, increasing.
    """
    if steps == 1:
        return np.array([sigma_max], np.float64)
    return np.linspace(sigma_min ** (1 / rho), sigma_max ** (1 / rho), steps) ** rho


def strided_timesteps(timesteps: int, steps: int, spacing: str = "linspace") -> np.ndarray:
    """`steps` of the T timesteps, spread over the chain.

    Args:
      spacing:
        `linspace`: evenly from 0 to T-1, rounded (Nichol & Dhariwal 2021, section 4); a single step is T-1.
        `leading`: 0, c, 2c, ... with c = T // steps (Song et al. 2021, appendix D.2; the papers' "uniform").
        `trailing`: T-1, T-1-c, ... downwards with c = T / steps, rounded (Lin et al. 2024, table 2).
        `quadratic`: squares of an even grid that ends at 0.8 T (Song et al. 2021, appendix D.2), each moved up
          to one above its predecessor where rounding would repeat it.

    Returns:
      [steps] int64, strictly increasing, within 0 to T-1.

    Raises:
      ValueError: unless 1 <= steps <= timesteps, or for an unknown spacing.
    """
    if not 1 <= steps <= timesteps:
        raise ValueError(f"steps={steps}: expected 1 to {timesteps}")
    if spacing == "leading":
        return np.arange(steps, dtype=np.int64) * (timesteps // steps)
    if spacing == "trailing":
        return np.round(np.arange(timesteps, 0, -timesteps / steps))[:steps][::-1].astype(np.int64) - 1
    if spacing == "linspace":
        if steps == 1:
            return np.array([timesteps - 1], dtype=np.int64)
        return np.round(np.linspace(0, timesteps - 1, steps)).astype(np.int64)
    if spacing == "quadratic":
        kept = (np.linspace(0, np.sqrt(0.8 * timesteps), steps) ** 2).astype(np.int64)
        for i in range(1, steps):
            kept[i] = max(kept[i], kept[i - 1] + 1)
        return np.minimum(kept, timesteps - steps + np.arange(steps))
    raise ValueError(f"unknown spacing {spacing!r}: expected linspace, leading, trailing or quadratic")


def few_step_sigmas(steps: int) -> np.ndarray:
    """Levels for a sampler that adds new noise after each of a few steps: 80, and between 5.4 and 0.5.

    For two steps those of Geng et al. 2024 (80 and 0.821); for more a geometric sequence follows 80.

    Returns:
      [steps] float64, decreasing.
    """
    later = [0.821] if steps == 2 else np.geomspace(5.4, 0.5, steps - 1)
    return np.concatenate([[80.0], later])


def nearest_timesteps(relative_sigma: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """The steps of a chain with the levels sigma / alpha [T] that are nearest to `wanted` ones [S], by their ratio.

    Returns:
      [S] int64, increasing.

    Raises:
      ValueError: where two of them are nearest to the same step.
    """
    distance = np.abs(np.log(np.asarray(wanted, np.float64))[:, None] - np.log(relative_sigma)[None])
    found = np.sort(np.argmin(distance, axis=1)).astype(np.int64)
    if len(np.unique(found)) < len(found):
        raise ValueError("two of these sigmas are nearest to the same step of the chain")
    return found


def respaced_betas(beta: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """Betas of the chain that visits only the timesteps `kept`, with the same alpha_bar there.

    Nichol & Dhariwal 2021, eq. 19: beta_{S_i} = 1 - alpha_bar_{S_i} / alpha_bar_{S_{i-1}}.

    Args:
      beta: [T] float64. kept: [S] int64, strictly increasing.

    Returns:
      [S] float64.
    """
    alpha_bar = alpha_bars(beta)[kept]
    return 1.0 - alpha_bar / np.concatenate([[1.0], alpha_bar[:-1]])
