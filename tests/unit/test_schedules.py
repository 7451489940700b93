"""Betas and shorter chains."""

import numpy as np
import pytest

from tf_ddpm.diffusion import schedules


def test_linear_schedule_is_that_of_ho_et_al():
    beta = schedules.betas("linear", 1000)
    assert beta.dtype == np.float64 and beta.shape == (1000,)
    assert beta[0] == 1e-4 and beta[-1] == 0.02
    np.testing.assert_allclose(np.diff(beta), (0.02 - 1e-4) / 999, rtol=1e-9)
    # Almost nothing of the image is left at the end of the chain.
    assert schedules.alpha_bars(beta)[-1] == pytest.approx(4.0358e-5, rel=1e-3)


def test_quadratic_and_constant_schedules():
    quadratic = schedules.betas("quadratic", 50, 1e-4, 0.02)
    np.testing.assert_allclose(quadratic[[0, -1]], [1e-4, 0.02], rtol=1e-12)
    np.testing.assert_allclose(np.diff(np.sqrt(quadratic), 2), 0, atol=1e-15)
    assert np.all(schedules.betas("constant", 50, 1e-4, 0.02) == 0.02)


def test_cosine_alpha_bar_follows_its_closed_form_until_beta_is_capped():
    timesteps = 4000
    beta = schedules.betas("cosine", timesteps)
    assert beta.max() <= 0.999
    t = np.arange(1, timesteps)  # the last beta is the capped one
    f = np.cos((t / timesteps + 0.008) / 1.008 * np.pi / 2) ** 2 / np.cos(0.008 / 1.008 * np.pi / 2) ** 2
    np.testing.assert_allclose(schedules.alpha_bars(beta)[:-1], f, rtol=1e-9)


def test_unknown_schedule_is_refused():
    with pytest.raises(ValueError, match="unknown schedule 'sigmoid'"):
        schedules.betas("sigmoid", 10)


@pytest.mark.parametrize("steps", [1, 2, 7, 50, 999, 1000])
def test_strided_timesteps_go_from_first_to_last_without_repetition(steps):
    kept = schedules.strided_timesteps(1000, steps)
    assert len(kept) == steps and kept[-1] == 999
    assert steps == 1 or kept[0] == 0
    assert np.all(np.diff(kept) > 0)


@pytest.mark.parametrize("spacing", ["linspace", "leading", "trailing", "quadratic"])
@pytest.mark.parametrize("timesteps", [10, 1000, 4000])
def test_every_spacing_gives_as_many_rising_steps_of_the_chain(spacing, timesteps):
    for steps in (1, 2, 3, 7, 10, 9 * timesteps // 10, timesteps):
        kept = schedules.strided_timesteps(timesteps, min(steps, timesteps), spacing)
        assert len(kept) == min(steps, timesteps) and kept.dtype == np.int64
        assert kept[0] >= 0 and kept[-1] < timesteps and np.all(np.diff(kept) > 0)


def test_spacings_are_those_of_their_papers():
    assert schedules.strided_timesteps(1000, 4, "leading").tolist() == [0, 250, 500, 750]
    assert schedules.strided_timesteps(1000, 4, "trailing").tolist() == [249, 499, 749, 999]
    assert schedules.strided_timesteps(1000, 4, "linspace").tolist() == [0, 333, 666, 999]
    assert schedules.strided_timesteps(1000, 4, "quadratic").tolist() == [0, 88, 355, 800]


def test_an_unknown_spacing_is_refused():
    with pytest.raises(ValueError, match="unknown spacing 'even'"):
        schedules.strided_timesteps(10, 2, "even")


@pytest.mark.parametrize("steps", [0, -1, 1001])
def test_more_steps_than_the_chain_has_are_refused(steps):
    with pytest.raises(ValueError, match="expected 1 to 1000"):
        schedules.strided_timesteps(1000, steps)


@pytest.mark.parametrize("schedule", ["linear", "cosine", "quadratic", "constant"])
def test_respacing_keeps_alpha_bar(schedule):
    beta = schedules.betas(schedule, 1000)
    kept = schedules.strided_timesteps(1000, 50)
    np.testing.assert_allclose(
        schedules.alpha_bars(schedules.respaced_betas(beta, kept)), schedules.alpha_bars(beta)[kept], rtol=1e-11
    )


def test_respacing_to_all_steps_changes_nothing():
    beta = schedules.betas("linear", 1000)
    np.testing.assert_allclose(schedules.respaced_betas(beta, np.arange(1000)), beta, rtol=1e-9)
