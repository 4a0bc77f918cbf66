import pytest
import torch

from wsolfast.bench import measure


@pytest.mark.parametrize(("call_ms", "most_calls", "timed"), [(1.0, 400, 200), (5000.0, 2, 1)])
def test_a_slow_call_on_a_gpu_is_timed_once(monkeypatch, call_ms, most_calls, timed):
    now, calls = [0.0], []

    class Event:
        def __init__(self, enable_timing):
            assert enable_timing

        def record(self):
            self.at = now[0]

        def elapsed_time(self, end):
            return end.at - self.at

    def call():
        calls.append(now[0])
        now[0] += call_ms

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    found = measure.milliseconds([call], "cuda", 0.2, None)
    assert found == {"p20": call_ms, "p50": call_ms, "p80": call_ms, "calls": timed}
    assert len(calls) <= most_calls
