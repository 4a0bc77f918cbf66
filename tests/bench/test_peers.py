"""Peers of ours can run on a GPU with what they are given: libraries insist on layouts."""

import pytest
import torch

from wsolfast.bench import peers


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["nchw", "nhwc"])
@pytest.mark.parametrize("number", range(4))
def test_attention_peers_hand_over_rows_of_channels(monkeypatch, number, layout):
    """cuDNN, FlashAttention and the efficient kernel want a last stride of 1; torch takes "math" without it."""
    seen = []

    def spy(query, key, value, scale):
        seen.extend((query, key, value))
        return value.new_zeros(*query.shape[:3], value.shape[3])

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", spy)
    query, key, value = (torch.rand(2, c, 3, 5).contiguous(memory_format=layout) for c in (4, 4, 7))
    found = peers._attention_peers()[number].call(query, key, value, "embedded_gaussian")
    assert found.shape == value.shape
    assert [x.shape[3] for x in seen] == [4, 4, 7]
    assert all(x.is_contiguous() for x in seen)
