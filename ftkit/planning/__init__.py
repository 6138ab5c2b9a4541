"""Config to `Plan`: everything that a run will do, decided before it starts."""
