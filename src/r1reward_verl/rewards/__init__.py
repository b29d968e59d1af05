"""The reward of a judgement: format, result and consistency, and their combination.

Everything but `manager`, the verl adapter, is free of verl.
"""

from r1reward_verl.rewards.conclusions import conclusion
from r1reward_verl.rewards.judges import make_judge
from r1reward_verl.rewards.rules import RewardWeights, combine, format_reward, result_reward
from r1reward_verl.rewards.settings import RewardSettings
from r1reward_verl.rewards.terms import stated_confidence

__all__ = [
    "RewardSettings",
    "RewardWeights",
    "combine",
    "conclusion",
    "format_reward",
    "make_judge",
    "result_reward",
    "stated_confidence",
]
