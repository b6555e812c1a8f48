"""LeNet-5 written layer by layer, without a model, and the engine made of it.

Weights are random here; any numpy arrays do:

    python examples/05_lenet_network.py
"""

import numpy as np

import torch2rt


def lenet(weights: dict[str, np.ndarray]) -> torch2rt.Network:
    """Weights by name: ``conv1.weight`` [6, 1, 5, 5], ``conv1.bias`` [6], ..., ``fc3.bias``."""
    network = torch2rt.Network("lenet", sizes={"batch": (1, 64)})
    x = network.add_input("image", ("batch", 1, 28, 28))
    for name, padding in (("conv1", 2), ("conv2", 0)):
        weight, bias = weights[f"{name}.weight"], weights[f"{name}.bias"]
        x = network.add_convolution(x, weight, bias, padding=padding, name=name)
        x = network.add_activation(x, "relu")
        x = network.add_pooling(x, "max", 2)
    x = network.add_flatten(x)
    for name in ("fc1", "fc2", "fc3"):
        x = network.add_linear(x, weights[f"{name}.weight"], weights[f"{name}.bias"], name=name)
        if name != "fc3":
            x = network.add_activation(x, "relu")
    network.mark_output(network.add_softmax(x), "probabilities")
    return network


SHAPES = {"conv1": (6, 1, 5, 5), "conv2": (16, 6, 5, 5), "fc1": (120, 400), "fc2": (84, 120),
          "fc3": (10, 84)}


def random_weights() -> dict[str, np.ndarray]:
    """Weights of a network that has learned nothing."""
    generator = np.random.default_rng(0)
    weights: dict[str, np.ndarray] = {}
    for name, shape in SHAPES.items():
        scale = 1 / np.sqrt(np.prod(shape[1:]))
        weights[f"{name}.weight"] = (generator.standard_normal(shape) * scale).astype(np.float32)
        weights[f"{name}.bias"] = np.zeros(shape[0], np.float32)
    return weights


if __name__ == "__main__":
    network = lenet(random_weights())
    print(network)
    engine = network.build(profiles=[{"image": (1, 1, 28, 28)}, {"image": (32, 1, 28, 28)}])
    print(engine.describe())
    image = np.random.default_rng(1).standard_normal((3, 1, 28, 28)).astype(np.float32)
    print(engine.run({"image": image})["probabilities"].round(3))
