"""What a run is asked to do: one validated `Config`, from defaults, file, environment and flags."""

from pathlib import Path

DEFAULT_FILE = Path("ftkit.yaml")
"""The config file of a project, in the working folder."""
