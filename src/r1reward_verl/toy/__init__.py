"""The toy world: pictures of coloured shapes, questions about them, and tiny Qwen models to judge answers."""
