"""vLLM's asynchronous engine in process, for real: a tiny model, pictures, samples, log-probabilities, long prompts."""

import json
import os
import subprocess
import sys

from r1reward_verl.judgement import build_prompt
from r1reward_verl.toy import world
from r1reward_verl.toy.model import save_model

PROGRAM = """
import json, math, sys
from r1reward_verl.use import ComparisonSettings, RankSettings, RewardModel

if __name__ == "__main__":
    model, picture, question, one, other = sys.argv[1:]
    settings = ComparisonSettings(samples=3, max_tokens=16, logprobs=True)
    with RewardModel(model, settings=settings, images=3, videos=1, frames=4) as reward_model:
        judged = reward_model.judge(question, picture, one, {"text": other, "images": [picture]})
        ranked = reward_model.rank(question, picture, [one, other, one + "!"], RankSettings(schedule="all_pairs"))
        film = reward_model.judge(question, [picture, {"video": [picture] * 4}], one, other)
        long = reward_model.judge(question, picture, one, other * 3000)
        tokens = reward_model.wait_for(reward_model.engine.generate(["user\\n"], 2, logprobs=True)).texts[0].tokens
    print(json.dumps({
        "texts": [len(one.texts) for one in judged.comparisons],
        "prompt_tokens": [one.prompt_tokens for one in judged.comparisons],
        "tokens": [one.tokens for one in judged.comparisons],
        "error": judged.error,
        "ranked": len(ranked.comparisons),
        "film": [film.error, [len(one.texts) for one in film.comparisons]],
        "long": long.error,
        "total": [sum(map(math.exp, place.values())) for _, place in tokens],
        "greatest": [max(place.values()) for _, place in tokens],
    }))
"""


def test_a_reward_model_runs_in_vllm(tmp_path):
    (pair,) = world.draw_pairs(1, 0, "test")
    one, other = pair.responses(1)
    corpus = [world.judgement(pair, 1), build_prompt(pair.question, one, other), "user\n", "assistant\n"]
    save_model(tmp_path / "model", corpus, 0)
    (tmp_path / "q.png").write_bytes(world.scene_png(pair))
    (tmp_path / "program.py").write_text(PROGRAM)
    command = [sys.executable, "program.py", "model", "q.png", pair.question, one, other]
    environment = {**os.environ, "VERL_PLATFORM": "cpu", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-4000:]
    seen = json.loads(done.stdout.splitlines()[-1])
    assert seen["texts"] == [3, 3]
    assert seen["error"] == ""
    # The picture of a response moves with it, so that both orders have the same number of tokens.
    assert seen["prompt_tokens"][0] == seen["prompt_tokens"][1] > 0
    assert all(0 < tokens <= 3 * 16 for tokens in seen["tokens"])
    assert seen["ranked"] == 3
    assert seen["film"] == ["", [3, 3]]
    assert "length" in seen["long"] or "long" in seen["long"]
    assert all(0 < total <= 1.001 for total in seen["total"])
    assert all(greatest <= 0.001 for greatest in seen["greatest"])
