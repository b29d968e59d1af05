"""Engines that make a trained reward model write judgements."""
