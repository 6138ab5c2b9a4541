"""The engine: everything that needs torch.

From the top to the bottom, and imports run that way alone:

    advise        what to fine-tune with, from a measurement
    training      a run: the loop, what is before and after it, what it keeps
    evaluation    how good models are, by themselves and beside each other
    cache         activations of frozen layers: where networks are cut, and the tables of values there
    inference     streams of images put through a network; predictions
    storage       files that are whole or not there: checkpoints, model bundles
    input         from a dataset's split to batches on the device
    network       networks, and what they compute on
    distributed   what several processes ask and tell each other
    seeds         randomness as a function of position
"""
