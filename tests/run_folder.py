"""Writes the folder of an evaluation as `r1reward eval run` does, for tests of what reads it."""

import json

from PIL import Image

from r1reward_verl.evaluation.folder import ORDERS
from r1reward_verl.evaluation.metrics import compute_metrics
from r1reward_verl.evaluation.verdicts import FAILED, load_run


def says(verdict, reasoning="Both were compared."):
    """A judgement with a verdict; None for a text without one."""
    return f"<think>{reasoning}</think>" + (f"<answer>{verdict}</answer>" if verdict else "I cannot say.")


def picture(path, colour="red", size=(64, 48)):
    """A picture file; returns its path as text."""
    Image.new("RGB", size, colour).save(path)
    return str(path)


def case(row, category="general", media=(), **texts):
    """A line of `cases.jsonl`."""
    texts = {"id": f"id-{row}", "question": f"Question {row}?", "chosen": "good", "rejected": "bad", **texts}
    return {"row": row, "category": category, "media": media if media == "inline" else [*media], **texts}


def judgement(row, order, text, sample=0, status="ok", **more):
    """A line of `judgements.jsonl`."""
    line = {"row": row, "order": order, "sample": sample, "text": text, "tokens": 10 + row, "prompt_tokens": 100}
    return {**line, "finish_reason": "stop", "status": status, "error": "", **more}


def judged(row, first, second, **texts):
    """The two greedy judgements of a case: their verdicts, better response first and second."""
    return [
        judgement(row, order, says(verdict, **texts))
        for order, verdict in zip(ORDERS, (first, second), strict=True)
        if verdict != "absent"
    ]


def write_run(folder, cases, judgements, *, benchmark="vl-rewardbench", samples=0, acc_plus=False, **about):
    """A finished run with true metrics; returns its folder."""
    folder.mkdir(parents=True)
    settings = {"benchmark": benchmark, "model_fingerprint": "tiny", "order": "both", "samples": samples}
    (folder / "run.json").write_text(json.dumps({"settings": settings, "about": about}))
    for name, lines in (("cases.jsonl", cases), ("judgements.jsonl", judgements)):
        (folder / name).write_text("".join(json.dumps(line) + "\n" for line in lines))
    run = load_run(folder)
    metrics = compute_metrics(run.verdicts, run.cases, acc_plus=acc_plus, resamples=50)
    first = run.verdicts[run.verdicts.label == 1]
    some = (first.status != FAILED).any()
    metrics["reference"] = compute_metrics(first, run.cases, acc_plus=acc_plus, resamples=50) if some else None
    (folder / "metrics.json").write_text(json.dumps(metrics))
    return folder
