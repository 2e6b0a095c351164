"""Bits of every layer under a budget: more where answers change more."""

from collections.abc import Mapping

BITS = (2, 3, 4, 8)


def allocate(
    sizes: Mapping[str, int], divergences: Mapping[str, Mapping[int, float]], average: float
) -> dict[str, int]:
    """Return the bits of every layer, whose mean over all weights is at most `average`.

    All layers begin with the fewest bits. The step that lowers the divergence most for every bit of size is taken next,
    as long as it fits; it is assumed that the divergences of single layers add up.

    Args:
        sizes: number of weights of every layer.
        divergences: by layer and bits, of the model in which that layer alone is rounded.
        average: the budget, in bits per weight.
    """
    bits = dict.fromkeys(sizes, BITS[0])
    left = average * sum(sizes.values()) - BITS[0] * sum(sizes.values())
    while True:
        steps = [
            ((divergences[path][now] - divergences[path][more]) / ((more - now) * sizes[path]), path, more)
            for path, now in bits.items()
            for more in BITS
            if more > now and (more - now) * sizes[path] <= left
        ]
        gain, path, more = max(steps, default=(0.0, "", 0))
        if gain <= 0:
            return bits
        left -= (more - bits[path]) * sizes[path]
        bits[path] = more
