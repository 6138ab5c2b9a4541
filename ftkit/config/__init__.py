"""What a run is asked to do: one validated `Config`, from defaults, file, environment and flags."""
