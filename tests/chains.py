"""Chains of blocks as lists of subgraphs: MobileNetV2 and its relatives, for tests of what prices and runs them."""

from lightning_nas.estimator.measure.sampling.chain_networks import Block, chain_parts

# (width, blocks, stride) of each stage.
MOBILENET = ((16, 1, 1), (24, 2, 2), (32, 3, 2), (64, 4, 2), (96, 3, 1), (160, 3, 2), (320, 1, 1))
LITE = ((16, 1, 1), (24, 2, 2), (40, 2, 2), (80, 3, 2), (112, 3, 1), (192, 4, 2), (320, 1, 1))


def mobilenet(stages=MOBILENET, *, kernels=(3,) * 7, fused=(), size=64, num_classes=10, stem=32, head=1280):
    """Return a network of MobileNetV2's shape; `fused` are numbers of blocks."""
    chosen, number = [], 0
    for index, (width, count, stride) in enumerate(stages):
        blocks = []
        for position in range(count):
            kind = "ds" if index == 0 else "fused" if number in fused else "ibn"
            blocks.append(Block(kind, 6 if index else 1, kernels[index], 1 if position else stride, width))
            number += 1
        chosen.append(blocks)
    return chain_parts((3, size, size), (stem, 2), chosen, head, num_classes)


def block(kind, size, in_channels, out_channels, stride, expansion=6):
    """Return one block of kernel 3."""
    return Block(kind, expansion, 3, stride, out_channels).part((size, size, in_channels))
