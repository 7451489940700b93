"""Figures of the bound: what its terms say of a progressive code."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from tf_ddpm.figures import plots


def rate_and_distortion(bits: dict) -> tuple[np.ndarray, np.ndarray]:
    """Progressive lossy coding (Ho et al. 2020, section 4.3): what is known after each message, from x_T on.

    Args:
      bits: of `likelihood.bits_per_dim`.

    Returns:
      The rates [T], in bits per dimension: L_T and the terms sent until then; and the root mean squared errors [T] of
      the predicted image, in steps of 0 to 255.
    """
    terms = [bits["terms"]["L_T"], *reversed(bits["terms"]["L_t_minus_1"])]
    return np.cumsum(terms), 127.5 * np.sqrt(bits["x_0_squared_error"][::-1])


def coding(bits: dict) -> Figure:
    """Rate and distortion (Ho et al. 2020, figure 5), of `likelihood.bits_per_dim`."""
    rates, distortions = rate_and_distortion(bits)
    left = np.arange(len(rates), 0, -1)
    figure, axes = plots.panels(3)
    axes[0].plot(left, distortions)
    axes[0].set(xlabel="reverse steps left", ylabel="distortion (root mean square, of 255)")
    axes[1].plot(left, rates)
    axes[1].set(xlabel="reverse steps left", ylabel="rate (bits/dim)")
    axes[2].plot(rates, distortions)
    axes[2].set(xlabel="rate (bits/dim)", ylabel="distortion")
    for axis in axes[:2]:
        axis.invert_xaxis()
    figure.tight_layout()
    return figure


def bound(bits: dict) -> Figure:
    """The bound's terms by t."""
    terms, receipt = bits["terms"], bits["receipt"]
    figure, (axis,) = plots.panels(1)
    by_t = np.array([terms["L_0"], *terms["L_t_minus_1"]])
    axis.plot(np.arange(1, len(by_t) + 1), by_t)
    axis.set(xlabel="t", ylabel="bits/dim", xscale="log", yscale="log")
    axis.set_title(
        rf"$L_0$ and $L_{{t-1}}$ by t; $L_T$ = {terms['L_T']:.2g}; sum {bits['value']:.3f} bits/dim "
        f"({receipt['num_images']} images)",
        fontsize=9,
    )
    figure.tight_layout()
    return figure
