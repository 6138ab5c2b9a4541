"""How far outputs can be trusted: calibration of probabilities, prediction sets, and unusual images."""
