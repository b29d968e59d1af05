"""`r1reward serve`."""

from __future__ import annotations

import typer

from r1reward_verl.cli.groups import with_settings
from r1reward_verl.cli.model_options import ModelSettings
from r1reward_verl.use.serve.settings import ServeSettings
from r1reward_verl.use.settings import ComparisonSettings, RankSettings

app = typer.Typer()


@app.command(
    epilog="Exit codes: 0 stopped by SIGTERM or Ctrl-C after all running requests were answered, 1 requests were cut "
    "off or the service failed, 2 wrong arguments."
)
@with_settings
def serve(
    model: ModelSettings,
    service: ServeSettings,
    comparison: ComparisonSettings,
    ranking: RankSettings,
) -> int:
    """Serve a reward model over HTTP: judge, rank and score responses, reward another RL run, and a page to try it.

    The options of rankings are defaults, which a request may override.
    """
    from r1reward_verl.use.serve.server import run  # fastapi takes half a second, which `r1reward --help` must not pay

    return run(model.load(comparison), service, ranking)
