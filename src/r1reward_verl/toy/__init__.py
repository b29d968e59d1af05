"""The toy world: pictures of coloured shapes, questions about them, and a tiny Qwen2.5-VL to judge answers."""
