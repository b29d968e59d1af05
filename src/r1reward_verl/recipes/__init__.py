"""Hydra groups shipped with the package: recipe/, hardware/ and judge/."""
