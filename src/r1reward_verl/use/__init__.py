"""What a trained reward model is for: judging pairs, ranking responses, serving, rewarding other RL runs."""

from r1reward_verl.use.comparison import Comparison, Question, Response
from r1reward_verl.use.model import JudgeResult, RankResult, RewardModel
from r1reward_verl.use.settings import ComparisonSettings, RankSettings

__all__ = [
    "Comparison",
    "ComparisonSettings",
    "JudgeResult",
    "Question",
    "RankResult",
    "RankSettings",
    "Response",
    "RewardModel",
]
