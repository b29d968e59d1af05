"""Train, evaluate and use generative multimodal reward models in verl, the R1-Reward way.

Nothing is imported here: verl loads `r1reward_verl.plugin` in every one of its processes, and the cost of
that import is paid a dozen times per run.
"""

__version__ = "0.1.0"
