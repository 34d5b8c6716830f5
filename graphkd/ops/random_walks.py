"""Positions of nodes in a graph: embeddings of random walks over it, with torch and scipy alone."""

import torch
from scipy.sparse import csr_matrix
from torch import Generator, Tensor


def random_walks(
    edge_index: Tensor,
    nodes: int,
    count: int,
    length: int,
    generator: Generator,
    starts: Tensor | None = None,
) -> Tensor:
    """Uniform random walks from every node; one without neighbours stays where it is.

    Args:
        edge_index: (2, E) from, to.
        nodes: N.
        count: walks from each node.
        length: nodes on a walk, its start among them.
        generator: of the draws.
        starts: (N',) where walks start, in place of every node.

    Shapes:
        gives (count * N, length) ids of nodes, or (count * N', length).
    """
    source, target = edge_index.cpu().long()
    order = source.argsort(stable=True)
    neighbours = torch.cat([target[order], torch.zeros(1, dtype=torch.long)])
    degree = torch.bincount(source, minlength=nodes)
    first = degree.cumsum(0) - degree
    starts = torch.arange(nodes) if starts is None else starts.cpu()
    walks = [starts.repeat(count)]
    for _ in range(length - 1):
        here = walks[-1]
        step = (torch.rand(len(here), generator=generator) * degree[here]).long()
        walks.append(torch.where(degree[here] > 0, neighbours[first[here] + step], here))
    return torch.stack(walks, 1)


def deepwalk(
    edge_index: Tensor,
    nodes: int,
    dimensions: int,
    generator: Generator,
    count: int = 5,
    length: int = 50,
    window: int = 5,
) -> Tensor:
    r"""An embedding of nodes in which those are near that meet on short random walks.

    Perozzi, Al-Rfou and Skiena, "DeepWalk: Online Learning of Social Representations", KDD 2014,
    https://arxiv.org/abs/1403.6652; by factorisation, as in Levy and Goldberg, "Neural Word
    Embedding as Implicit Matrix Factorization", NIPS 2014, of which skip-gram is an approximation,
    and Qiu et al., "Network Embedding as Matrix Factorization", WSDM 2018,
    https://arxiv.org/abs/1710.02971.

        M_ij = max(0, \log(#(i, j) \sum # / (#(i) #(j)))),   M ~ U S V^T,   codes U S^{1/2}

    where #(i, j) counts how often i and j are at most `window` steps apart on a walk, a pair r
    steps apart with weight (window - r + 1) / window, as word2vec's shrinking windows do.

    Convention: no training, so no learning rate and no passes; a node that meets no other has the
    code 0. Dimensions beyond the number of nodes are 0.

    Shapes:
        edge_index: (2, E); gives (N, dimensions).
    """
    walks = random_walks(edge_index, nodes, count, length, generator)
    pairs, weights = [], []
    for r in range(1, min(window, length - 1) + 1):
        a, b = walks[:, :-r].flatten(), walks[:, r:].flatten()
        met = a != b
        pairs.append(torch.stack([a[met], b[met]]))
        weights.append(torch.full((int(met.sum()),), (window - r + 1) / window))
    row, column = (half.numpy() for half in torch.cat(pairs, 1)) if pairs else ([], [])
    shape = (nodes, nodes)
    met_once = csr_matrix((torch.cat(weights).numpy(), (row, column)), shape) if pairs else None
    codes = torch.zeros(nodes, dimensions)
    if met_once is None or not met_once.nnz:
        return codes
    counts = (met_once + met_once.T).tocoo()
    often = torch.from_numpy(counts.sum(1)).flatten()
    total = often[counts.row] * often[counts.col]
    information = (torch.from_numpy(counts.data) * often.sum() / total).log().clamp(min=0)
    matrix = csr_matrix((information.float().numpy(), (counts.row, counts.col)), shape)
    rank = min(dimensions, nodes)
    state = int(torch.randint(2**31 - 1, (), generator=generator))
    from sklearn.utils.extmath import randomized_svd  # late: as long to import as torch

    left, size, _ = randomized_svd(matrix, rank, n_iter=5, random_state=state)
    codes[:, :rank] = torch.from_numpy(left * size**0.5)
    return codes
