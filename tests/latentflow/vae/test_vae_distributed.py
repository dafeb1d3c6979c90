"""A FlowVAE in two processes, by torch's own DistributedDataParallel."""

import os
import socket

import pytest
import torch
import torch.multiprocessing as mp
from torch.nn.parallel import DistributedDataParallel

from latentflow import DiffusionPrior, FlowVAE, HJResidual, MLPDecoder, MLPEncoder, MLPPotential, PotentialBank

SHAPE, STEPS = (1, 4, 4), 3


def model():
    torch.manual_seed(0)
    return FlowVAE(
        MLPEncoder(SHAPE, 2, (8,)),
        MLPDecoder(2, SHAPE, (8,)),
        PotentialBank([MLPPotential(2, (4,), output_scale=0.1) for _ in range(3)]),
        DiffusionPrior(2, fields=3),
        HJResidual(),
    )


def batch(rank, step):
    """Sequences of one transformation only, another one in each step."""
    source = torch.Generator().manual_seed(10 * rank + step)
    return torch.rand(4, 3, *SHAPE, generator=source), torch.full((4,), step % 3)


def train(rank, port, folder):
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.distributed.init_process_group("gloo", rank=rank, world_size=2)
    torch.set_num_threads(1)
    parallel = DistributedDataParallel(model())
    optimizer = torch.optim.SGD(parallel.parameters(), 1e-4)
    for step in range(STEPS):
        optimizer.zero_grad()
        parallel(*batch(rank, step), torch.Generator().manual_seed(rank))["total"].backward()
        optimizer.step()
    if rank == 0:
        torch.save(parallel.module.state_dict(), folder / "weights.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch was built without it")
def test_a_batch_of_one_transformation_trains_in_two_processes(tmp_path):
    """Catches C4: plain DDP that dies in its second step, since the other potentials got no gradient."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(train, (port, tmp_path), nprocs=2)
    alone = model()
    optimizer = torch.optim.SGD(alone.parameters(), 1e-4)
    for step in range(STEPS):
        optimizer.zero_grad()
        for rank in range(2):
            (alone(*batch(rank, step), torch.Generator().manual_seed(rank))["total"] / 2).backward()
        optimizer.step()
    together = torch.load(tmp_path / "weights.pt", weights_only=True)
    for name, weight in alone.state_dict().items():
        torch.testing.assert_close(together[name], weight, rtol=1e-5, atol=1e-6)
