"""`r1reward data`: from raw data sets to training files."""

from r1reward_verl.cli.groups import command_group

app = command_group(
    "Prepare data: convert, merge, annotate, select, check, look.",
    {
        "annotate": "r1reward_verl.cli.data.annotate",
        "check": "r1reward_verl.cli.data.check",
        "convert": "r1reward_verl.cli.data.convert",
        "merge": "r1reward_verl.cli.data.merge",
        "report": "r1reward_verl.cli.data.report",
        "select": "r1reward_verl.cli.data.select",
    },
)
