"""`r1reward toy`: the toy world of the demo."""

from r1reward_verl.cli.groups import command_group

app = command_group(
    "Build the toy world and serve its teacher.",
    {
        "build": "r1reward_verl.cli.toy.build",
        "teacher": "r1reward_verl.cli.toy.teacher",
    },
)
