"""How good a reward model is: metrics, a resumable evaluation run, and the report of a training run."""
