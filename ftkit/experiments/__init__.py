"""Work that takes several trainings or measurements: recommendations, trials over strategies and seeds, sweeps."""
