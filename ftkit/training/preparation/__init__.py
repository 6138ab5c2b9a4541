"""Work done before the first step: the run folder, checks, the probe, and what a resumed run must share."""
