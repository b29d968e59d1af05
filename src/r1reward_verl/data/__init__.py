"""Preference data: questions, two responses each, and which of the two people preferred."""
