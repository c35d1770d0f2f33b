"""Muon for the matrices of the blocks, Adam for the embedding and the norms.

Muon (Keller Jordan, 2024, https://kellerjordan.github.io/posts/muon/) takes the momentum of a matrix and replaces its
singular values by about 1, through a Newton-Schulz iteration. On this corpus it needs about half the tokens of Adam
until the model copies words from its prompt, and tokens are what two cores have few of.
"""

from __future__ import annotations

import torch

from scripts.demo_base.network import Parameters

# Quintic iteration x -> a x + b x^3 + c x^5 whose fixed band [0.7, 1.2] is reached from any singular value in 5 steps.
_QUINTIC = (3.4445, -4.7750, 2.0315)
_ITERATIONS = 5


def orthogonalized(gradient: torch.Tensor) -> torch.Tensor:
    """A matrix with the singular vectors of `gradient` (rows, columns) and singular values near 1."""
    a, b, c = _QUINTIC
    wide = gradient.shape[0] <= gradient.shape[1]
    x = (gradient if wide else gradient.T).bfloat16()
    x = x / (x.norm() + 1e-7)
    for _ in range(_ITERATIONS):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x if wide else x.T).float()


class MuonAdam:
    """State and update of both methods; `state` is a plain dict that torch.save can keep."""

    def __init__(self, parameters: Parameters, *, matrix_rate: float, other_rate: float):
        self.parameters = parameters
        self.rates = {"matrix": matrix_rate, "other": other_rate}
        self.state = {name: torch.zeros_like(value) for name, value in parameters.items()}
        self.squares = {name: torch.zeros_like(value) for name, value in parameters.items() if not self.is_matrix(name)}
        self.steps = 0

    @staticmethod
    def is_matrix(name: str) -> bool:
        """Whether `name` is one of the linear layers, which Muon updates."""
        return name.startswith("blk.") and not name.endswith("norm.weight")

    def step(self, schedule: float) -> None:
        """Updates all parameters from their .grad, with the learning rates times `schedule`; clears the gradients."""
        self.steps += 1
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                gradient = parameter.grad
                assert gradient is not None, name
                if self.is_matrix(name):
                    self._muon(name, parameter, gradient, schedule)
                else:
                    self._adam(name, parameter, gradient, schedule)
                parameter.grad = None

    def _muon(self, name: str, parameter: torch.Tensor, gradient: torch.Tensor, schedule: float) -> None:
        momentum = self.state[name].lerp_(gradient, 0.05)
        direction = orthogonalized(gradient.lerp(momentum, 0.95))  # Nesterov's look ahead
        # An orthogonal (rows, columns) matrix moves each output by sqrt(rows/columns) of the input's size.
        scale = max(1.0, parameter.shape[0] / parameter.shape[1]) ** 0.5
        parameter.mul_(1 - 0.01 * self.rates["matrix"] * schedule)
        parameter.sub_(direction, alpha=self.rates["matrix"] * schedule * scale)

    def _adam(self, name: str, parameter: torch.Tensor, gradient: torch.Tensor, schedule: float) -> None:
        mean = self.state[name].lerp_(gradient, 0.1)
        square = self.squares[name].lerp_(gradient.square(), 0.05)
        mean_now, square_now = mean / (1 - 0.9**self.steps), square / (1 - 0.95**self.steps)
        parameter.sub_(mean_now / (square_now.sqrt() + 1e-10), alpha=self.rates["other"] * schedule)
