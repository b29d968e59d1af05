"""What tells checkpoints apart."""

from __future__ import annotations

import hashlib
from pathlib import Path

from r1reward_verl.engines.vllm import checkpoint

_PIECE = 1 << 20
_MODEL_FILES = {".bin", ".jinja", ".json", ".model", ".pt", ".pth", ".safetensors", ".txt"}


def fingerprint_model(model: str) -> str:
    """Return a digest of a checkpoint's files, or for a name on the Hugging Face Hub its commit and config.

    Of large files only pieces are read, all through the file: enough to tell two training steps apart, since a step
    changes every tensor.

    Raises:
        ValueError: not a checkpoint, or the Hub does not give its config.
    """
    folder = checkpoint(model)
    if folder is None:
        from transformers.utils.hub import cached_file, extract_commit_hash  # takes seconds to import

        try:
            config = cached_file(model, "config.json")
        except OSError as error:
            raise ValueError(f"model {model!r} is no folder, and the Hub does not give it: {error}") from error
        commit = extract_commit_hash(str(config), None)
        return f"{model}@{commit} {hashlib.sha256(Path(str(config)).read_bytes()).hexdigest()}"
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.iterdir() if path.suffix in _MODEL_FILES):
        size = path.stat().st_size
        digest.update(f"{path.name} {size}\n".encode())
        with open(path, "rb") as file:
            for start in range(0, size, max(_PIECE, size // 16)):
                file.seek(start)
                digest.update(file.read(_PIECE))
    return digest.hexdigest()
