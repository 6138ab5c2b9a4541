"""Work that takes several trainings or measurements: recommendations, and trials over strategies and seeds."""
