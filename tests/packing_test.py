import hypothesis
import hypothesis.strategies as st
import numpy as np

from skipjax.data import packing


@hypothesis.given(
    lengths=st.lists(st.integers(2, 18), min_size=1, max_size=200),
    batch_size=st.integers(1, 70),
)
def test_bounds_hold_for_every_batch_and_are_reached(lengths, batch_size):
    lengths = np.array(lengths)
    bounds = packing.packing_of(lengths, batch_size, 40)
    steps = -(-len(lengths) // batch_size)
    falling = sorted(lengths.tolist(), reverse=True)
    dealt = [falling[i::steps] for i in range(steps)]
    assert max(map(len, dealt)) <= batch_size
    assert bounds.num_tokens == max(map(sum, dealt))
    assert bounds.num_inputs == max(sum(n - 1 for n in batch) for batch in dealt)
    for part, longest in zip(packing.parts_of(batch_size), bounds.lengths, strict=True):
        inside = [n for batch in dealt for n in batch[part]]
        assert longest == max(inside, default=2)


@hypothesis.given(st.integers(1, 1000))
def test_parts_are_all_of_a_batch(number):
    parts = packing.parts_of(number)
    assert [i for part in parts for i in range(part.start, part.stop)] == list(range(number))
    sizes = [part.stop - part.start for part in parts]
    assert max(sizes) - min(sizes) <= 1
    assert len(parts) == (4 if number >= 64 else max(1, number // 16))


def test_there_is_no_packing_where_there_is_no_padding():
    assert packing.packing_of(np.full(100, 18), 10, 18) is None
    assert packing.packing_of(np.full(100, 12), 10, 18).num_tokens == 120
