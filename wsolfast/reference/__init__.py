"""Plain PyTorch twins of the ops: fallback, oracle and baseline at once. They import torch only."""
