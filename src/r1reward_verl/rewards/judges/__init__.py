"""The judges of consistency: by rules, and by a model."""
