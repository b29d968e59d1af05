"""GRPO in huggingface/trl with a trained reward model as its reward function (`pip install 'r1reward-verl[trl]'`).

    python examples/trl_grpo.py --policy /path/to/policy --reward-model http://host:8001/v1 prompts.jsonl out

A row of prompts.jsonl has a `prompt`: a text or a list of chat messages.
"""

import argparse

import torch
from datasets import load_dataset
from trl import GRPOConfig, GRPOTrainer

from r1reward_verl.use import RewardModel
from r1reward_verl.use.reward_function import PairwiseReward


def main() -> None:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prompts", help="jsonl file")
    parser.add_argument("out", help="folder of the trained policy")
    parser.add_argument("--policy", required=True, help="checkpoint to start from")
    parser.add_argument("--reward-model", required=True, help="address of the reward model's server")
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--generations", type=int, default=8, help="completions of a prompt, compared with each other")
    parser.add_argument("--max-tokens", type=int, default=1024, help="length of a completion")
    arguments = parser.parse_args()
    config = GRPOConfig(
        arguments.out,
        max_steps=arguments.steps,
        num_generations=arguments.generations,
        # All completions of a prompt on one device, so that they can be compared.
        per_device_train_batch_size=arguments.generations,
        bf16=torch.cuda.is_available(),
        use_cpu=not torch.cuda.is_available(),
        max_completion_length=arguments.max_tokens,
        logging_steps=1,
        report_to="none",
    )
    with RewardModel(urls=[arguments.reward_model]) as model:
        reward = PairwiseReward(model)
        prompts = load_dataset("json", data_files=arguments.prompts, split="train")
        GRPOTrainer(arguments.policy, reward_funcs=reward, args=config, train_dataset=prompts).train()
        print({name: round(value, 3) for name, value in reward.metrics.items()})


if __name__ == "__main__":
    main()
