"""The algorithm on its own: every expected number is worked out in the test, from the paper's formulas."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, tensor
from torch.testing import assert_close

from r1reward_verl import stable_reinforce as sr
from r1reward_verl.stable_reinforce import (
    LOG_RATIO_HIGH,
    LOG_RATIO_LOW,
    discounted_returns,
    filter_advantages,
    log_ratio_clipped,
    moments,
    stable_reinforce_advantage,
    stable_reinforce_loss,
    standardise,
)

NAN, INF = math.nan, math.inf
FLOATS = (torch.bfloat16, torch.float16, torch.float32, torch.float64)


def outcome(rewards: list[float], tokens: int = 1) -> tuple[Tensor, Tensor]:
    """One reward per sample on its last token, all tokens valid."""
    token_level = torch.zeros(len(rewards), tokens, dtype=torch.float64)
    token_level[:, -1] = tensor(rewards, dtype=torch.float64)
    return token_level, torch.ones(len(rewards), tokens, dtype=torch.long)


def returns_by_loop(rewards: Tensor, mask: Tensor, gamma: float) -> Tensor:
    """The definition, one token at a time: masked tokens neither earn nor discount."""
    returns = torch.zeros(rewards.shape, dtype=torch.float64)
    for row in range(rewards.shape[0]):
        running = 0.0
        for t in reversed(range(rewards.shape[1])):
            if mask[row, t]:
                running = rewards[row, t].item() + gamma * running
                returns[row, t] = running
    return returns


class TestDiscountedReturns:
    def test_undiscounted_return_is_what_is_still_to_come(self):
        rewards = tensor([[1.0, 2.0, 4.0], [0.0, 0.0, 3.0]])
        returns = discounted_returns(rewards, torch.ones(2, 3))
        assert returns.tolist() == [[7.0, 6.0, 4.0], [3.0, 3.0, 3.0]]

    def test_discount_is_applied_once_per_valid_token(self):
        # 4 at the last token; 2 + 0.5 * 4 = 4; 1 + 0.5 * 4 = 3
        returns = discounted_returns(tensor([[1.0, 2.0, 4.0]]), torch.ones(1, 3), gamma=0.5)
        assert returns.tolist() == [[3.0, 4.0, 4.0]]

    def test_a_gap_is_skipped_and_its_reward_dropped(self):
        # The token at index 1 is masked: 8 there is dropped, and 4 is discounted once on its way to index 0.
        returns = discounted_returns(tensor([[1.0, 8.0, 4.0, 9.0]]), tensor([[1, 0, 1, 0]]), gamma=0.5)
        assert returns.tolist() == [[3.0, 0.0, 4.0, 0.0]]

    @pytest.mark.parametrize("gamma", [0.0, 1e-300, 1e-10, 0.3, 0.5, 0.9, 0.99, 0.999999, 1.0])
    @pytest.mark.parametrize("mask", ["right padding", "left padding", "gaps", "empty rows"])
    def test_equals_the_definition_over_4096_tokens(self, gamma: float, mask: str):
        generator = torch.Generator().manual_seed(0)
        rewards = torch.randn(3, 4096, generator=generator, dtype=torch.float64)
        position, length = torch.arange(4096), tensor([[4096], [3000], [1]])
        valid = {
            "right padding": position < length,
            "left padding": position >= 4096 - length,
            "gaps": torch.rand(3, 4096, generator=generator) < 0.7,
            "empty rows": (position < length) & tensor([[False], [True], [False]]),
        }[mask]
        expected = returns_by_loop(rewards, valid, gamma)
        assert_close(discounted_returns(rewards, valid, gamma), expected, rtol=1e-10, atol=1e-10)
        single = discounted_returns(rewards.float(), valid, gamma)
        assert_close(single.double(), expected, rtol=1e-4, atol=1e-4)

    @pytest.mark.parametrize("gamma", [0.1, 0.9, 1.0])
    def test_inputs_need_not_be_contiguous(self, gamma: float):
        generator = torch.Generator().manual_seed(0)
        rewards = torch.randn(70, 5, generator=generator, dtype=torch.float64).T
        mask = (torch.rand(70, 5, generator=generator) < 0.8).T
        expected = returns_by_loop(rewards, mask, gamma)
        assert_close(discounted_returns(rewards, mask, gamma), expected)

    @pytest.mark.parametrize("gamma", [0.5, 0.9, 0.99, 1.0])
    def test_a_reward_at_the_end_neither_overflows_nor_spoils_what_is_near_it(self, gamma: float):
        rewards = torch.zeros(1, 4096)
        rewards[0, -1] = 1e6
        returns = discounted_returns(rewards, torch.ones(1, 4096), gamma)[0]
        assert returns.isfinite().all()
        assert_close(returns[-100], tensor(1e6 * gamma**99), rtol=1e-5, atol=0.0)
        assert returns[0].item() == pytest.approx(1e6 * gamma**4095, rel=1e-3, abs=1e-30)


class TestAdvantage:
    def test_golden_values(self):
        # Returns 2, 2 | 0, 0 over two tokens each: mean 1, deviations 1, unbiased variance 4 / 3.
        rewards, mask = outcome([2.0, 0.0], tokens=2)
        advantages, returns, statistics = stable_reinforce_advantage(rewards, mask)
        z = 1.0 / math.sqrt(4.0 / 3.0 + 1e-8)
        assert returns.tolist() == [[2.0, 2.0], [0.0, 0.0]]
        assert_close(advantages, tensor([[z, z], [-z, -z]], dtype=torch.float64))
        assert statistics == (4, 2, 0, 0, 0, pytest.approx(z))

    def test_long_responses_weigh_more_because_the_mean_is_over_tokens(self):
        # Valid returns 3, 3, 3, 0: mean 9/4, deviations 3/4 three times and -9/4, variance (27/16 + 81/16) / 3.
        rewards = tensor([[0.0, 0.0, 3.0], [0.0, 0.0, 0.0]])
        advantages, _, _ = stable_reinforce_advantage(rewards, tensor([[1, 1, 1], [1, 0, 0]]))
        std = math.sqrt(108 / 16 / 3)
        assert_close(advantages, tensor([[0.75, 0.75, 0.75], [-2.25, 0.0, 0.0]]) / std, rtol=1e-6, atol=1e-6)

    def test_255_to_1_the_lone_sample_is_filtered(self):
        # facts: 255 ones and one zero: mean 255/256, so the zero stands 255/256 below the mean.
        rewards, mask = outcome([1.0] * 255 + [0.0])
        deviation = 255 / 256
        population_std = math.sqrt(255) / 256
        assert -deviation / population_std == pytest.approx(-15.97, abs=0.01)  # the paper prints -15.96
        unbiased_std = population_std * math.sqrt(256 / 255)
        advantages, _, statistics = stable_reinforce_advantage(rewards, mask)
        assert statistics.max_abs_z == pytest.approx(deviation / unbiased_std, rel=1e-5)
        assert advantages[-1].item() == 0.0
        assert_close(advantages[0].item(), (1 / 256) / unbiased_std, rtol=1e-5, atol=0.0)
        assert (statistics.filtered_tokens, statistics.filtered_samples) == (1, 1)

    @pytest.mark.parametrize("reward", [0.0, 1.0, 0.1, 1 / 3, -0.7, 1e6, 1e6 / 3])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    @pytest.mark.parametrize("shape", [(1, 1), (2, 1), (7, 13), (256, 300), (300, 1024), (1, 100_000)])
    def test_equal_rewards_give_exact_zeros(self, reward: float, dtype: torch.dtype, shape: tuple[int, int]):
        rewards = torch.zeros(shape, dtype=dtype)
        rewards[:, -1] = reward
        advantages, _, statistics = stable_reinforce_advantage(rewards, torch.ones(shape))
        assert not advantages.any()
        assert statistics.max_abs_z == 0.0

    def test_a_small_true_difference_beside_a_large_reward_is_not_lost(self):
        rewards, mask = outcome([1e6, 1e6 + 1.0])
        advantages, _, _ = stable_reinforce_advantage(rewards.float(), mask)
        assert_close(advantages, tensor([[-1.0], [1.0]]) / math.sqrt(2), rtol=1e-5, atol=1e-5)

    @pytest.mark.parametrize(
        "mask",
        [
            pytest.param([[0, 0], [0, 0]], id="fully masked batch"),
            pytest.param([[0, 1], [0, 0]], id="one token, one fully masked row"),
        ],
    )
    def test_degenerate_masks_give_zeros(self, mask: list[list[int]]):
        advantages, returns, _ = stable_reinforce_advantage(tensor([[5.0, 1.0], [NAN, INF]]), tensor(mask))
        assert not advantages.any()
        assert returns.isfinite().all()

    @pytest.mark.parametrize("shape", [(0, 4), (3, 0), (0, 0)])
    @pytest.mark.parametrize("gamma", [1.0, 0.9])
    def test_an_empty_batch_gives_empty_tensors(self, shape: tuple[int, int], gamma: float):
        advantages, returns, statistics = stable_reinforce_advantage(
            torch.zeros(shape), torch.zeros(shape), gamma=gamma
        )
        assert advantages.shape == returns.shape == shape
        assert statistics == (0, 0, 0, 0, 0, 0)

    def test_an_empty_response_among_others_changes_nothing(self):
        rewards, mask = outcome([2.0, 0.0, 1.0], tokens=2)
        with_empty = stable_reinforce_advantage(
            torch.cat([rewards, torch.full((1, 2), NAN, dtype=torch.float64)]),
            torch.cat([mask, torch.zeros(1, 2, dtype=torch.long)]),
        )
        without = stable_reinforce_advantage(rewards, mask)
        assert_close(with_empty[0][:3], without[0])
        assert not with_empty[0][3].any()
        assert with_empty[2] == without[2]

    @pytest.mark.parametrize("dtype", [*FLOATS, torch.long])
    def test_results_are_float32_or_better(self, dtype: torch.dtype):
        advantages, returns, _ = stable_reinforce_advantage(tensor([[0, 2], [0, 1]]).to(dtype), torch.ones(2, 2).bool())
        expected = torch.float64 if dtype == torch.float64 else torch.float32
        assert advantages.dtype == returns.dtype == expected

    def test_sums_of_half_precision_rewards_do_not_overflow(self):
        rewards = torch.full((2, 4), 60000.0, dtype=torch.float16)
        _, returns, _ = stable_reinforce_advantage(rewards, torch.ones(2, 4))
        assert returns[0].tolist() == [240000.0, 180000.0, 120000.0, 60000.0]

    def test_a_nan_reward_stays_visible(self):
        advantages, _, statistics = stable_reinforce_advantage(tensor([[NAN], [1.0]]), torch.ones(2, 1))
        assert advantages.isnan().all()
        assert math.isnan(statistics.max_abs_z)
        # the reference code turns it into zeros
        advantages, _, _ = stable_reinforce_advantage(tensor([[NAN], [1.0]]), torch.ones(2, 1), bounds="reference")
        assert not advantages.any()

    def test_statistics_count_tokens_and_whole_samples(self):
        # 40 one-token samples of 0 and one of two tokens, where only the first has a large return.
        rewards = torch.zeros(41, 2)
        rewards[-1] = tensor([100.0, 0.0])
        mask = tensor([[1, 0]] * 40 + [[1, 1]])
        advantages, _, statistics = stable_reinforce_advantage(rewards, mask)
        assert (statistics.tokens, statistics.samples) == (42, 41)
        assert (statistics.filtered_tokens, statistics.filtered_samples) == (1, 0)
        assert advantages[-1, 0] == 0.0 != advantages[-1, 1]

    def test_shapes_that_differ_are_refused(self):
        with pytest.raises(ValueError, match=r"\(2, 3\).*\(2, 1\).*same shape"):
            stable_reinforce_advantage(torch.zeros(2, 3), torch.ones(2, 1))

    @pytest.mark.parametrize(
        ("option", "value"),
        [
            ("sigma", 0.0),
            ("sigma", -3.0),
            ("sigma", NAN),
            ("sigma", "3"),
            ("sigma", True),
            ("bounds", "papre"),
            ("renormalise", 1),
            ("filter", "drp"),
            ("deviation_floor", -0.1),
            ("deviation_floor", INF),
            ("deviation_floor", True),
            ("gamma", 1.01),
            ("gamma", -0.1),
            ("gamma", NAN),
        ],
    )
    def test_an_option_outside_its_range_is_named(self, option: str, value: object):
        with pytest.raises(ValueError, match=rf"{option}={value!r}"):
            stable_reinforce_advantage(torch.zeros(1, 1), torch.ones(1, 1), **{option: value})


class TestFilter:
    def test_paper_keeps_up_to_sigma_on_both_sides(self):
        z = tensor([[-3.1, -3.0, 0.0, 3.0, 3.1]])
        assert filter_advantages(z, torch.ones(1, 5), 3.0).tolist() == [[0.0, -3.0, 0.0, 3.0, 0.0]]

    def test_infinite_sigma_keeps_all(self):
        assert filter_advantages(tensor([[-50.0, 50.0]]), torch.ones(1, 2), INF).tolist() == [[-50.0, 50.0]]

    def test_outliers_can_be_clipped_or_kept(self):
        z = tensor([[-31.0, -3.0, 0.5, 4.0, 9.0, NAN]])
        mask = tensor([[1, 1, 1, 1, 0, 1]])
        assert filter_advantages(z, mask, 3.0, filter="clip")[0, :5].tolist() == [-3.0, -3.0, 0.5, 3.0, 0.0]
        assert filter_advantages(z, mask, 3.0, filter="none")[0, :5].tolist() == [-31.0, -3.0, 0.5, 4.0, 0.0]
        assert filter_advantages(z, mask, 3.0, filter="clip")[0, 5].isnan()
        reference = filter_advantages(z, mask, 3.0, bounds="reference", raw_mean=-1.0, filter="clip")
        assert reference[0, :5].tolist() == [-4.0, -3.0, 0.5, 2.0, 0.0]

    def test_clipped_samples_count_as_filtered(self):
        rewards, mask = outcome([2.0] * 19 + [0.5])
        advantages, _, statistics = stable_reinforce_advantage(rewards, mask, filter="clip")
        assert advantages[-1].tolist() == [-3.0]
        assert (statistics.filtered_samples, statistics.filtered_below) == (1, 1)

    def test_filtered_samples_are_counted_by_the_side_of_the_mean(self):
        rewards, mask = outcome([1.0] * 50 + [9.0] + [-9.0] * 2)
        _, _, statistics = stable_reinforce_advantage(rewards, mask)
        assert (statistics.filtered_samples, statistics.filtered_below) == (3, 2)

    def test_the_deviation_is_floored(self):
        rewards, mask = outcome([1.0, 1.2])  # deviation 0.14
        for floor, divisor in ((0.0, 0.02**0.5), (0.1, 0.02**0.5), (0.5, 0.5), (1.0, 1.0)):
            advantages, _, _ = stable_reinforce_advantage(rewards, mask, deviation_floor=floor)
            assert_close(advantages[:, 0].tolist(), [-0.1 / divisor, 0.1 / divisor], rtol=1e-5, atol=0.0)

    def test_masked_tokens_become_zero_and_nan_stays_visible(self):
        filtered = filter_advantages(tensor([[NAN, 1.0, NAN, INF]]), tensor([[0, 0, 1, 1]]))
        assert filtered[0, :2].tolist() == [0.0, 0.0]
        assert filtered[0, 2].isnan()
        assert filtered[0, 3] == 0.0

    def test_reference_interval_lies_around_the_raw_mean(self):
        # raw mean 2: kept is [-1, 5]; of a raw mean of 9, [6, 12], only what is at most 10; of -9 alike
        z = tensor([[-1.1, -1.0, 5.0, 5.1, 9.9, 10.1, NAN, INF]])
        kept_around_2 = filter_advantages(z, torch.ones(1, 8), 3.0, bounds="reference", raw_mean=2.0)
        kept_around_9 = filter_advantages(z, torch.ones(1, 8), 3.0, bounds="reference", raw_mean=9.0)
        around_minus_9 = filter_advantages(-z, torch.ones(1, 8), 3.0, bounds="reference", raw_mean=-9.0)
        assert around_minus_9.tolist() == (-kept_around_9).tolist()
        assert kept_around_2.tolist() == tensor([[0.0, -1.0, 5.0, 0.0, 0.0, 0.0, 0.0, 0.0]]).tolist()
        assert kept_around_9.tolist() == tensor([[0.0, 0.0, 0.0, 0.0, 9.9, 0.0, 0.0, 0.0]]).tolist()

    @pytest.mark.parametrize(
        ("bounds", "accuracy", "wrong_kept"),
        [
            # Rewards 2 (right) and 0.5 (wrong). A wrong sample stands at z = -sqrt(p / (1 - p)).
            # paper: kept down to -3, that is up to p = 0.9
            ("paper", 0.68, True),
            ("paper", 0.70, True),
            ("paper", 0.89, True),
            ("paper", 0.91, False),
            # reference: kept down to mean - 3 = 1.5 p - 2.5, which z meets between p = 0.68 and 0.69
            ("reference", 0.68, True),
            ("reference", 0.69, False),
            ("reference", 0.89, False),
        ],
    )
    def test_the_accuracy_from_which_wrong_samples_are_dropped(
        self, bounds: sr.Bounds, accuracy: float, wrong_kept: bool
    ):
        right = round(1000 * accuracy)
        rewards, mask = outcome([2.0] * right + [0.5] * (1000 - right))
        advantages, _, statistics = stable_reinforce_advantage(rewards, mask, bounds=bounds)
        z = -math.sqrt(accuracy / (1 - accuracy))
        assert advantages[-1].item() == pytest.approx(z if wrong_kept else 0.0, rel=1e-3)
        assert advantages[0].item() == pytest.approx(-1 / z, rel=1e-3)
        assert statistics.filtered_samples == (0 if wrong_kept else 1000 - right)

    def test_renormalise_standardises_the_kept_ones_among_themselves(self):
        # The outlier gone, 0 and 2 remain, 10 each: mean 1, unbiased variance 20 / 19.
        rewards, mask = outcome([0.0] * 10 + [2.0] * 10 + [1000.0])
        advantages, _, _ = stable_reinforce_advantage(rewards, mask, renormalise=True)
        kept = 1.0 / math.sqrt(20 / 19)
        assert_close(advantages[:20, 0].tolist(), [-kept] * 10 + [kept] * 10, rtol=1e-3, atol=0.0)
        assert advantages[20].item() == 0.0

    @given(
        seed=st.integers(0, 2**32 - 1),
        sigma=st.floats(0.1, 4.0),
        bounds=st.sampled_from(["paper", "reference"]),
        renormalise=st.booleans(),
    )
    @settings(deadline=None, max_examples=50)
    def test_the_estimator_filters_as_filter_advantages_does(
        self, seed: int, sigma: float, bounds: sr.Bounds, renormalise: bool
    ):
        generator = torch.Generator().manual_seed(seed)
        rewards = torch.randn(6, 9, generator=generator, dtype=torch.float64).pow(3)
        mask = torch.rand(6, 9, generator=generator) < 0.7
        z, returns, _ = stable_reinforce_advantage(rewards, mask, sigma=INF)
        raw_mean = returns[mask].mean().item() if mask.any() else 0.0
        expected = filter_advantages(z, mask, sigma, bounds=bounds, raw_mean=raw_mean)
        if renormalise:
            kept = mask & (expected == z)
            expected = standardise(expected, kept, *moments(expected, kept))
        advantages, _, _ = stable_reinforce_advantage(
            rewards, mask, sigma=sigma, bounds=bounds, renormalise=renormalise
        )
        assert_close(advantages, expected)


@st.composite
def rollouts(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    """Rewards to +-1e6 of any float type with NaN and infinity at masked tokens, and masks of any shape."""
    batch, tokens = draw(st.integers(1, 6)), draw(st.integers(1, 12))
    values = st.one_of(st.sampled_from([0.0, 0.5, 1.0, 2.0]), st.floats(-1e6, 1e6, width=32))
    count = batch * tokens
    rewards = tensor(draw(st.lists(values, min_size=count, max_size=count))).view(batch, tokens)
    mask = tensor(draw(st.lists(st.booleans(), min_size=count, max_size=count))).view(batch, tokens)
    dtype = draw(st.sampled_from(FLOATS))
    if dtype == torch.float16:
        rewards = rewards.clamp(-6e4, 6e4)
    filler = draw(st.sampled_from([0.0, NAN, INF]))
    return torch.where(mask, rewards, filler).to(dtype), mask


class TestAdvantageProperties:
    @given(
        rollout=rollouts(),
        gamma=st.sampled_from([0.0, 0.5, 0.99, 1.0]),
        bounds=st.sampled_from(["paper", "reference"]),
        renormalise=st.booleans(),
    )
    @settings(deadline=None, max_examples=200)
    def test_finite_bounded_and_zero_where_masked(
        self, rollout: tuple[Tensor, Tensor], gamma: float, bounds: sr.Bounds, renormalise: bool
    ):
        rewards, mask = rollout
        advantages, returns, statistics = stable_reinforce_advantage(
            rewards, mask, gamma=gamma, bounds=bounds, renormalise=renormalise
        )
        assert advantages.shape == returns.shape == rewards.shape
        assert advantages.isfinite().all()
        assert returns.isfinite().all()
        assert not advantages[~mask].any()
        assert not returns[~mask].any()
        assert statistics.tokens == mask.sum()
        assert 0 <= statistics.filtered_samples <= statistics.samples <= statistics.tokens
        if bounds == "paper" and not renormalise:
            assert advantages.abs().max() <= 3.0

    @given(rollout=rollouts(), gamma=st.sampled_from([0.0, 0.5, 1.0]))
    @settings(deadline=None, max_examples=100)
    def test_without_a_filter_the_valid_advantages_have_mean_0_and_variance_1(
        self, rollout: tuple[Tensor, Tensor], gamma: float
    ):
        rewards, mask = rollout
        advantages, returns, _ = stable_reinforce_advantage(rewards.double(), mask, gamma=gamma, sigma=INF)
        valid, spread = advantages[mask], returns[mask]
        if valid.numel() < 2 or spread.max() - spread.min() < 1e-2:
            return
        assert valid.mean().item() == pytest.approx(0.0, abs=1e-6)
        assert valid.var().item() == pytest.approx(1.0, abs=1e-2)


def losses(log_ratio: list[float], advantages: list[float], **options: float) -> list[float]:
    """Losses of tokens whose log-ratio is given."""
    count = len(log_ratio)
    result, _ = stable_reinforce_loss(
        tensor([log_ratio], dtype=torch.float64),
        torch.zeros(1, count),
        tensor([advantages], dtype=torch.float64),
        torch.ones(1, count),
        **options,
    )
    return result[0].tolist()


class TestLoss:
    def test_golden_values(self):
        # ratio 1.1 is within 0.8 to 1.2; 1.5 is cut to 1.2 only where that makes the objective smaller
        log_ratio = [math.log(1.1), math.log(1.5), math.log(1.5), math.log(0.5), math.log(0.5)]
        expected = [-1.1 * 2, -1.2 * 2, 1.5 * 2, -0.5 * 2, 0.8 * 2]
        assert losses(log_ratio, [2.0, 2.0, -2.0, 2.0, -2.0]) == pytest.approx(expected)

    def test_clip_ratios_may_differ(self):
        log_ratio = [math.log(2.0), math.log(0.25)]
        assert losses(log_ratio, [1.0, -1.0], clip_ratio_low=0.5, clip_ratio_high=0.3) == pytest.approx([-1.3, 0.5])

    def test_pre_clip_bounds_the_loss_where_ppo_does_not(self):
        # A negative advantage: PPO's min leaves the ratio alone, Pre-CLIP stops it at 1e3.
        assert losses([50.0, 10000.0, INF], [-1.0] * 3) == pytest.approx([1e3] * 3)
        assert losses([-50.0, -10000.0, -INF], [1.0] * 3) == pytest.approx([-1e-3] * 3)

    def test_the_dual_clip_bounds_the_ratio_where_the_advantage_is_negative(self):
        log_ratio = [math.log(5.0), math.log(5.0), math.log(2.0), math.log(0.5)]
        assert losses(log_ratio, [-1.0, 1.0, -1.0, -1.0], clip_ratio_c=3.0) == pytest.approx([3.0, -1.2, 2.0, 0.8])

    def test_pre_clip_bounds_are_ln_1e3_by_default(self):
        assert log_ratio_clipped(tensor([-20.0, 0.5, 20.0]), torch.zeros(3)).tolist() == pytest.approx(
            [math.log(1e-3), 0.5, math.log(1e3)]
        )
        assert (math.log(1e-3), math.log(1e3)) == (LOG_RATIO_LOW, LOG_RATIO_HIGH)

    def test_half_precision_is_subtracted_in_float32(self):
        log_ratio = log_ratio_clipped(tensor([-0.5], dtype=torch.float16), tensor([-0.25], dtype=torch.bfloat16))
        assert log_ratio.dtype == torch.float32
        # 60000 - (-60000) overflows float16
        wide = log_ratio_clipped(tensor([6e4], dtype=torch.float16), tensor([-6e4], dtype=torch.float16), -2e5, 2e5)
        assert wide.item() == pytest.approx(120000.0, rel=1e-3)

    def test_metrics_are_shares_of_valid_tokens(self):
        log_ratio = tensor([[-20.0, 20.0, 20.0, 0.25, 0.0, NAN, 20.0, -20.0]])
        advantages = tensor([[1.0, 1.0, 0.0, 1.0, 1.0, 1.0, 1.0, 1.0]])
        mask = tensor([[1, 1, 1, 1, 1, 1, 0, 0]])
        _, metrics = stable_reinforce_loss(log_ratio, torch.zeros(1, 8), advantages, mask)
        assert metrics["pre_clip_low"].item() == pytest.approx(1 / 6)
        assert metrics["pre_clip_high"].item() == pytest.approx(2 / 6)
        assert metrics["nan_log_ratio"].item() == pytest.approx(1 / 6)
        # PPO's clip decides at 20 and at 0.25 (e^0.25 = 1.28) with a positive advantage, not with advantage 0
        assert metrics["pg_clipfrac"].item() == pytest.approx(2 / 6)

    def test_kl_is_the_mean_of_the_clipped_negative_log_ratio(self):
        _, metrics = stable_reinforce_loss(
            tensor([[0.5, -20.0, 7.0]]), torch.zeros(1, 3), torch.ones(1, 3), tensor([[1, 1, 0]])
        )
        assert metrics["ppo_kl"].item() == pytest.approx((-0.5 + math.log(1e3)) / 2)

    @pytest.mark.parametrize("bad", [NAN, INF, -INF])
    @pytest.mark.parametrize("where", ["log_prob", "old_log_prob", "advantages", "rollout_is_weights"])
    @pytest.mark.parametrize("dtype", FLOATS)
    def test_nothing_leaks_from_masked_tokens(self, bad: float, where: str, dtype: torch.dtype):
        inputs = {
            "log_prob": tensor([[-0.5, -0.25]], dtype=dtype),
            "old_log_prob": tensor([[-0.25, -0.25]], dtype=dtype),
            "advantages": tensor([[1.0, -1.0]], dtype=dtype),
            "rollout_is_weights": tensor([[0.5, 1.0]], dtype=dtype),
        }
        mask = tensor([[True, False]])

        def loss_and_gradient() -> tuple[Tensor, Tensor]:
            log_prob = inputs["log_prob"].clone().requires_grad_()
            loss, _ = stable_reinforce_loss(**{**inputs, "log_prob": log_prob}, mask=mask)
            loss.sum().backward()
            return loss.detach(), log_prob.grad

        clean = loss_and_gradient()
        inputs[where] = inputs[where].masked_fill(~mask, bad)
        spoilt = loss_and_gradient()
        assert clean[0][0, 1] == clean[1][0, 1] == 0.0
        assert clean[0][0, 0] != 0.0 != clean[1][0, 0]
        assert_close(spoilt, clean, rtol=0.0, atol=0.0)

    @pytest.mark.parametrize(("log_prob", "old_log_prob"), [(NAN, -1.0), (-1.0, NAN), (INF, INF), (-INF, -INF)])
    def test_nan_at_a_valid_token_stays_visible(self, log_prob: float, old_log_prob: float):
        loss, metrics = stable_reinforce_loss(
            tensor([[log_prob, 0.0]]), tensor([[old_log_prob, 0.0]]), torch.ones(1, 2), torch.ones(1, 2)
        )
        assert loss.isnan().tolist() == [[True, False]]
        assert metrics["nan_log_ratio"].item() == 0.5

    @pytest.mark.parametrize(("log_prob", "old_log_prob"), [(INF, 0.0), (-INF, 0.0), (0.0, INF), (0.0, -INF)])
    @pytest.mark.parametrize("advantage", [1.0, -1.0])
    def test_infinity_at_a_valid_token_is_clipped_and_has_no_gradient(
        self, log_prob: float, old_log_prob: float, advantage: float
    ):
        current = tensor([[log_prob]], requires_grad=True)
        loss, _ = stable_reinforce_loss(current, tensor([[old_log_prob]]), tensor([[advantage]]), torch.ones(1, 1))
        loss.sum().backward()
        assert loss.isfinite().all()
        assert current.grad.item() == 0.0

    def test_gradients_in_float64(self):
        # Away from the corners, where there is no derivative: both signs, inside and outside both clips.
        log_ratio = tensor([[-9.0, -1.0, -0.1, 0.1, 1.0, 9.0] * 2], dtype=torch.float64)
        advantages = tensor([[1.5] * 6 + [-0.7] * 6], dtype=torch.float64)
        old_log_prob = torch.linspace(-3.0, -1.0, 12, dtype=torch.float64)[None]
        mask = tensor([[1] * 11 + [0]])
        weights = torch.linspace(0.5, 2.0, 12, dtype=torch.float64)[None]

        def function(log_prob: Tensor) -> Tensor:
            return stable_reinforce_loss(log_prob, old_log_prob, advantages, mask, rollout_is_weights=weights)[0]

        log_prob = (old_log_prob + log_ratio).requires_grad_()
        assert function(log_prob).dtype == torch.float64
        assert torch.autograd.gradcheck(function, (log_prob,), eps=1e-7)
        gradient = torch.autograd.grad(function(log_prob).sum(), log_prob)[0]
        #          A > 0: free below 1.2 down to the Pre-CLIP | A < 0: free above 0.8 up to the Pre-CLIP | masked
        assert (gradient != 0).tolist() == [
            [False, True, True, True, False, False] + [False] * 2 + [True] * 3 + [False]
        ]

    @given(data=st.data())
    @settings(deadline=None, max_examples=200)
    def test_any_log_ratio_gives_a_bounded_loss_and_a_finite_gradient(self, data: st.DataObject):
        batch, tokens = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 8))
        dtype = data.draw(st.sampled_from(FLOATS))

        def draw(low: float, high: float) -> Tensor:
            values = st.lists(st.floats(low, high, width=32), min_size=batch * tokens, max_size=batch * tokens)
            return tensor(data.draw(values)).view(batch, tokens).to(dtype)

        log_prob, old_log_prob = draw(-1e4, 0.0).requires_grad_(), draw(-1e4, 0.0)
        advantages, mask = draw(-3.0, 3.0), draw(0.0, 1.0) > 0.3
        loss, metrics = stable_reinforce_loss(log_prob, old_log_prob, advantages, mask)
        loss.sum().backward()
        assert loss.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        assert (loss.detach().abs() <= 1e3 * advantages.abs().to(loss.dtype) * (1 + 1e-5)).all()
        assert log_prob.grad.isfinite().all()
        assert not loss.detach()[~mask].any()
        assert not log_prob.grad[~mask].any()
        assert all(0.0 <= metrics[name] <= 1.0 for name in metrics if name != "ppo_kl")
        assert metrics["ppo_kl"].item() + 1e-4 >= LOG_RATIO_LOW
        assert metrics["ppo_kl"].item() <= LOG_RATIO_HIGH + 1e-4
