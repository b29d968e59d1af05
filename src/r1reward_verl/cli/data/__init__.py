"""`r1reward data`: from raw data sets to training files."""

from r1reward_verl.cli.groups import command_group

app = command_group(
    "Prepare data: convert, annotate, select, check, look.",
    {
        "annotate": "r1reward_verl.cli.data.annotate",
        "check": "r1reward_verl.cli.data.check",
        "convert": "r1reward_verl.cli.data.convert",
        "report": "r1reward_verl.cli.data.report",
        "select": "r1reward_verl.cli.data.select",
    },
)
