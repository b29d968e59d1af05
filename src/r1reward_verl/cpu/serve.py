"""`vllm serve` on a machine without a GPU: `python -m r1reward_verl.cpu.serve MODEL --port 8000 ...`.

The command `vllm` of the CPU build ends before it starts, looking for its own version.
"""

from __future__ import annotations

import sys

from r1reward_verl.cpu import environment, vllm_distribution

vllm_distribution.install_vllm_metadata()

if __name__ == "__main__":
    environment.apply()
    from vllm.entrypoints.cli.main import main

    sys.argv[0] = "vllm"
    sys.argv.insert(1, "serve")
    main()
