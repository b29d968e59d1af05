"""`r1reward eval`: reward models on benchmarks."""

from r1reward_verl.cli.groups import command_group

app = command_group(
    "Evaluate reward models: run benchmarks, compare runs, compute figures anew, report, export.",
    {
        "compare": "r1reward_verl.cli.eval.compare",
        "export": "r1reward_verl.cli.eval.export",
        "report": "r1reward_verl.cli.eval.report",
        "rescore": "r1reward_verl.cli.eval.rescore",
        "run": "r1reward_verl.cli.eval.run",
    },
)
