"""Work done at the events of a run, such as saving, tracking and weight drift."""
