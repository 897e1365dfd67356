"""A search by Lightning as tests run it, and the same search as a loop in plain PyTorch, on one process or more."""

import copy
from contextlib import contextmanager, nullcontext

import lightning.pytorch as pl
import torch
from conftest import LinearEstimator, read_by, small_network
from lightning.pytorch.plugins.precision import MixedPrecision
from limits import limits_of
from searches import search_of, training_of
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from lightning_nas.budget.budget import Budget
from lightning_nas.search.engine import Search
from lightning_nas.space.options import SpaceOptions
from lightning_nas.supernet import space_of, supernet_from

QUIET = {
    "logger": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "accelerator": "cpu",
}
EPOCHS = 2


def loader(seed=1):
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(64, 3, 32, 32, generator=generator)
    return DataLoader(TensorDataset(images, torch.randint(0, 4, (64,), generator=generator)), batch_size=8)


class Stateful:
    """A loader that goes on where it was, without which Lightning begins an interrupted epoch's data anew."""

    def __init__(self, seed=1):
        self.batches, self.position = list(loader(seed)), 0

    def __len__(self):
        return len(self.batches)

    def __iter__(self):
        for number in range(self.position, len(self.batches)):
            self.position = (number + 1) % len(self.batches)
            yield self.batches[number]

    def state_dict(self):
        return {"position": self.position}

    def load_state_dict(self, state):
        self.position = state["position"]


def make_supernet(kernels=(3, 5)):
    torch.manual_seed(0)
    network, image = small_network(), torch.zeros(1, 3, 32, 32)
    return supernet_from(network, image, space_of(network, image, options=SpaceOptions(kernels=kernels)))


class Plain(pl.LightningModule):
    def __init__(self, network: torch.nn.Module | None = None, plateau: bool = False):
        super().__init__()
        self.network = make_supernet() if network is None else network
        self.plateau, self.lr = plateau, 1e-2

    def training_step(self, batch, batch_idx):
        loss = functional.cross_entropy(self.network(batch[0]), batch[1])
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", functional.cross_entropy(self.network(batch[0]), batch[1]))

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=self.lr, momentum=0.9, weight_decay=1e-3)
        if not self.plateau:
            return optimizer
        schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "monitor": "val_loss"}}


def searching(**options):
    options = {"every": 2, "candidates": 1, "evaluations": 0, "random_subnets": 0, **options}
    return search_of(LinearEstimator(), **({} if "budget" in options else {"latency": "0.6x"}), **options)


def fit(module, search, tmp_path, callbacks=(), trainer=pl.Trainer, ckpt_path=None, data=None, val=None, **options):
    options = {"max_epochs": EPOCHS, "enable_checkpointing": bool(callbacks), **options}
    trainer = trainer(callbacks=[search, *callbacks], default_root_dir=tmp_path, **QUIET, **options)
    trainer.fit(module, data or loader(), val or loader(), ckpt_path=ckpt_path)
    return trainer


def within(search):
    space = search.search.supernet.space
    full = LinearEstimator().latency_ms(space.decode(space.reference_encoding))
    return LinearEstimator().latency_ms(search.architecture) <= 0.6 * full * (1 + 1e-9)


def plugin(precision):
    """Return options of the Trainer and the context and scaler of plain PyTorch; fp16 is scaled on the CPU as well."""
    if precision == "fp32":
        return {}, nullcontext, None
    if precision == "bf16":
        return {"precision": "bf16-mixed"}, lambda: torch.autocast("cpu", torch.bfloat16), None
    scalers = [torch.amp.GradScaler("cpu", init_scale=2.0**10) for _ in range(2)]
    plugins = {"plugins": [MixedPrecision("16-mixed", "cpu", scaler=scalers[0])]}
    return plugins, lambda: torch.autocast("cpu", torch.float16), scalers[1]


def block_of(entries):
    """Return the smallest block of a parameter that holds all entries: paths of one optimizer step share it."""
    block = torch.ones_like(entries)
    for axis in range(entries.ndim):
        others = [other for other in range(entries.ndim) if other != axis]
        block &= entries.any(dim=others, keepdim=True) if others else entries
    return block


@contextmanager
def kept(network, optimizer, read):
    """Put back what a step of the optimizer has changed in entries that no path has read, in its state as well."""
    parameters = dict(network.named_parameters())
    weights = {name: p.detach().clone() for name, p in parameters.items()}
    momenta = {p: state["momentum_buffer"].clone() for p, state in optimizer.state.items()}
    yield
    for name, p in parameters.items():
        outside = ~block_of(torch.stack([rows[name] for rows in read]).any(0))
        p.data[outside] = weights[name][outside]
        if p in optimizer.state:
            buffer = optimizer.state[p]["momentum_buffer"]
            buffer[outside] = momenta[p][outside] if p in momenta else 0.0


def plain_loop(network, context, scaler, accumulate, batches):
    """The same search without Lightning, without the callback and without processes.

    Each process is a replica of the network here, with statistics of its own in the stem's batch norm.

    Args:
        network: A supernet; it is trained.
        context: Makes the context of a forward pass.
        scaler: Scaler of the loss, or None.
        accumulate: Batches to an optimizer step.
        batches: For each process its batches of an epoch.

    Returns:
        The network, trained, and the logits.
    """
    replicas = [network, *(copy.deepcopy(network) for _ in batches[1:])]
    supernet = network.supernet
    limits = limits_of(supernet.space, LinearEstimator(), Budget(latency="0.6x"))
    search = Search(supernet, limits, training_of(every=2))
    multipliers = [0.0] * len(limits.costs)
    for replica in replicas:
        replica.supernet.use_batch_statistics(True)
    weights = torch.optim.SGD(network.parameters(), lr=1e-2, momentum=0.9, weight_decay=1e-3)
    logits = torch.optim.Adam(search.logits, 0.05, betas=(0.5, 0.999))
    total, step, scored, pending, read = EPOCHS * len(batches[0]) // accumulate, 0, None, None, []
    for _ in range(EPOCHS):
        for number, parts in enumerate(zip(*batches, strict=True)):
            if number % accumulate == 0:
                # Each step begins with the first process's statistics, which are those of a checkpoint as well.
                share(replicas, torch.nn.Module.buffers)
            if search.is_due(step, total) and step != scored:
                scored, samples = step, [search.draw() for _ in range(2)]
                losses = [compare(*pair, samples, context) for pair in zip(replicas, parts, strict=True)]
                pending = samples, torch.stack(losses).mean(0)
            path = search.path(step, total)
            read.append(read_by(network, path))
            for replica, (images, targets) in zip(replicas, parts, strict=True):
                replica.supernet.activate(path)
                with context():
                    loss = functional.cross_entropy(replica(images), targets) / accumulate
                (loss if scaler is None else scaler.scale(loss)).backward()
            if (number + 1) % accumulate:
                continue
            average_gradients(replicas)
            if scaler is not None:
                scaler.unscale_(weights)
            if pending is not None:
                loss = objective(search, multipliers, *pending)
                gradients = torch.autograd.grad(loss, search.logits)
                for row, gradient in zip(search.logits, gradients, strict=True):
                    row.grad = gradient
                logits.step()
                logits.zero_grad()
                # Above its budget a cost presses harder from step to step, below it less.
                excesses = [float(excess.detach()) for excess in relative_excesses(search)]
                pairs = zip(multipliers, excesses, strict=True)
                multipliers = [multiplier + search.training.strategy.eta * excess for multiplier, excess in pairs]
                pending = None
            with kept(network, weights, read):
                if scaler is None:
                    weights.step()
                else:
                    scaler.step(weights)
                    scaler.update()
            read = []
            for replica in replicas:
                replica.zero_grad()
            share(replicas, torch.nn.Module.parameters)
            step += 1
    return network, search.logits


def relative_excesses(search):
    """Return how far each expected cost is above its budget, as a part of it."""
    probabilities = search.probabilities()
    return [limit.table.expected(probabilities) / limit.budget - 1 for limit in search.limits.costs]


def objective(search, multipliers, samples, losses):
    """Return the loss of the logits: leave-one-out REINFORCE, and an augmented Lagrangian of each budget."""
    probabilities, losses = search.probabilities(), losses.float()
    others = (losses.sum() - losses) / (len(losses) - 1)
    scores = [torch.stack([row[node] for row, node in zip(probabilities, nodes, strict=True)]) for nodes in samples]
    surrogate = ((losses - others) * torch.stack([score.log().sum() for score in scores])).mean()
    pairs = zip(relative_excesses(search), multipliers, strict=True)
    penalties = [excess * multiplier + search.training.strategy.rho / 2 * excess**2 for excess, multiplier in pairs]
    return surrogate + torch.stack(penalties).sum().float()


def compare(network, batch, samples, context):
    """Return the losses of sampled architectures on a batch, in evaluation mode."""
    losses = []
    network.eval()
    for nodes in samples:
        network.supernet.activate(nodes)
        with torch.no_grad(), context():
            losses.append(functional.cross_entropy(network(batch[0]), batch[1]).float())
    network.train()
    return torch.stack(losses)


@torch.no_grad()
def share(replicas, tensors):
    """Give all replicas the parameters or buffers of the first."""
    for other in replicas[1:]:
        for mine, first in zip(tensors(other), tensors(replicas[0]), strict=True):
            mine.copy_(first)


def average_gradients(replicas):
    """Give the first replica the mean of all gradients; what none used keeps none, and is not stepped."""
    for first, *others in zip(*(replica.parameters() for replica in replicas), strict=True):
        if first.grad is not None:
            first.grad = sum(p.grad / len(replicas) for p in (first, *others))


def largest_difference(network, other):
    """Return how far two networks' parameters are apart."""
    pairs = zip(network.parameters(), other.parameters(), strict=True)
    return max(float((a - b).detach().abs().max()) for a, b in pairs)
