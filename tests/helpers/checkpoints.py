"""Small face networks and their checkpoints."""

import torch

from tgfr.core import seed_everything
from tgfr.encoders.backbones import IResNet

SMALL = dict(width=4, embedding=32)


def weights_of(kind=IResNet, depth=18, **options):
    "A small network with random weights and moved batch norms, and its state dict."
    seed_everything(1)
    network = kind(depth, **SMALL, **options)
    network(torch.randn(4, 3, network.config.size, network.config.size))
    return network.eval(), network.state_dict()


def under(prefix, weights):
    return {prefix + name: t for name, t in weights.items()}


class Foreign:
    def __setstate__(self, state):
        raise AssertionError("was run")
