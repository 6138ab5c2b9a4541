"""The interfaces of the parts that plugins bring, one file for each kind.

| part | what it is |
| --- | --- |
| `backbone` | a network described as data: layer groups, head, preprocessing, weights |
| `dataset` | labelled images in splits |
| `strategy` | which layer groups train in which epoch, and at what learning rate |
| `task` | targets, decoding and metrics: one class per image, or several |
| `metric` | a number that evaluates the outputs for a split |
| `loss` | what training minimises |
| `optimizer` | what updates the parameters |
| `curve` | the learning rate over the run |
| `random_transforms` | a random change of one training image, or of a whole batch and its targets |
| `callback` | work at the events of a run, with state of its own |
| `exporter` | a trained model in another format |

Each interface is small, typed, and free of torch at import. `ftkit.api` exports them; `ftkit.plugins.hookspecs` has the
hook of each; `ftkit.testing` checks what a plugin brings.
"""
