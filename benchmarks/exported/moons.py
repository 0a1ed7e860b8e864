# %%
import torch

from mlkit import batched_step, pipeline


# %%
class Net(torch.nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Linear(2, width), torch.nn.Tanh(), torch.nn.Linear(width, 2)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


# %%
torch.manual_seed(0)
net = Net(width=16)

# %%
x = torch.rand(256, 2) * 4 - 2
y = (x.norm(dim=1) > 1.2).long()
optimiser = torch.optim.Adam(net.parameters(), 0.05)
for _ in range(60):
    optimiser.zero_grad()
    torch.nn.functional.cross_entropy(net(x), y).backward()
    optimiser.step()


# %%
@batched_step(max_batch_size=16)
def classify(points: list[tuple[float, float]]) -> list[bool]:
    with torch.inference_mode():
        return net(torch.tensor(points)).argmax(1).bool().tolist()


# %%
@pipeline
def moons(point: tuple[float, float]) -> bool:
    return classify(point)


# %%
moons((0.0, 0.1))

# %%
moons((1.9, -1.9))

# %%
moons((-0.3, 0.2))
