"""The paper's numerical experiments again, in plain NumPy, for the ledger: updates as powers of a 2 x 2 matrix, and
features on the sphere as a recurrence of angles. Nothing here is shared with the package's own closed forms but the
published initial states.

Rows are samples; H and W are split into class contrasts, the common mean and what varies within classes.
"""

import functools

import numpy as np

from unhinged_jax import initial

C, N, P = 100, 10, 512


@functools.cache
def features():
    return initial.paper_features()


@functools.cache
def prototypes(kind):
    return initial.paper_prototypes() if kind == "kaiming" else initial.paper_anchors(centred=kind == "centred")


class Linear:
    """Descent with rates eta and s eta and decay lambda on both parts, label of row i being i mod C."""

    def __init__(self, gamma, decay=0.0, eta=0.1, s=1.0):
        H, W = features(), prototypes("kaiming")
        self.eta, self.s, self.decay = eta, s, decay
        sums = H.reshape(N, C, P).sum(axis=0) / N**0.5
        self.within = H - np.tile(sums, (N, 1)) / N**0.5
        self.parts = []
        for sigma, project in (
            ((1 + gamma) / (C * N**0.5), lambda X: X - X.mean(axis=0)),
            ((1 + gamma - gamma * C) / (C * N**0.5), lambda X: np.broadcast_to(X.mean(axis=0), X.shape)),
        ):
            self.parts.append((sigma, project(sums), project(W)))

    def block(self, sigma, updates):
        """T^k, entry by entry over the numbers of updates: T = [[1 - s eta l, s eta sigma], [eta sigma, 1 - eta l]]."""
        a, d = 1 - self.s * self.eta * self.decay, 1 - self.eta * self.decay
        b, c = self.s * self.eta * sigma, self.eta * sigma
        spread = (((a - d) / 2) ** 2 + b * c) ** 0.5
        if spread == 0:  # no coupling and equal factors: gamma = 1/(C-1) for the common mean
            return a ** np.asarray(updates, float), 0.0, 0.0, d ** np.asarray(updates, float)
        low, high = ((a + d) / 2 + sign * spread for sign in (-1, 1))
        plus, minus = high ** np.asarray(updates, float), low ** np.asarray(updates, float)
        one, slope = (high * minus - low * plus) / (high - low), (plus - minus) / (high - low)
        return one + a * slope, b * slope, c * slope, one + d * slope

    def squares(self, updates):
        """(|H|^2, |W|^2) after so many updates."""
        H2 = (1 - self.s * self.eta * self.decay) ** (2.0 * updates) * np.sum(self.within**2)
        W2 = 0.0
        for sigma, G, W in self.parts:
            a, b, c, d = self.block(sigma, updates)
            gg, gw, ww = np.sum(G * G), np.sum(G * W), np.sum(W * W)
            H2 = H2 + a * a * gg + 2 * a * b * gw + b * b * ww
            W2 = W2 + c * c * gg + 2 * c * d * gw + d * d * ww
        return H2, W2

    def loss(self, updates):
        total = 0.0
        for sigma, G, W in self.parts:
            a, b, c, d = self.block(sigma, updates)
            total = total - sigma * (a * c * np.sum(G * G) + (a * d + b * c) * np.sum(G * W) + b * d * np.sum(W * W))
        return total

    def accuracy(self, updates):
        """Share of samples right after so many updates (a number)."""
        keep = (1 - self.s * self.eta * self.decay) ** float(updates)
        sums, weights = 0.0, 0.0
        for sigma, G, W in self.parts:
            a, b, c, d = self.block(sigma, updates)
            sums, weights = sums + a * G + b * W, weights + c * G + d * W
        scores = keep * self.within @ weights.T + np.tile(sums @ weights.T, (N, 1)) / N**0.5
        return np.mean(np.argmax(scores, axis=1) == np.arange(C * N) % C)

    def distance(self, which, updates):
        """Distance of the direction of "H", "W" or "Z" from that of its growing contrast part.

        Inner products of the parts only, so that nothing cancels: with L the growing part and D the rest,
        L/|L| and (L + D)/|L + D| differ by (D - L (|L+D| - |L|)/|L|)/|L + D|.
        """
        updates = np.asarray(updates, float)
        sigma, G, W = self.parts[0]
        a, b, c, d = self.block(sigma, 1.0)
        values, vectors = np.linalg.eig(np.array([[a, b], [c, d]], float))
        order = np.argsort(-values)
        (high, low), vectors = values[order], vectors[:, order]
        duals = np.linalg.inv(vectors)
        top, rest = (duals[k, 0] * G + duals[k, 1] * W for k in (0, 1))
        tt, tr, rr = np.sum(top * top), np.sum(top * rest), np.sum(rest * rest)
        LL = LD = DD = 0.0
        grow, fall = high**updates, low**updates
        for row in {"H": (0,), "W": (1,), "Z": (0, 1)}[which]:
            up, down = vectors[row]
            LL = LL + (up * grow) ** 2 * tt
            LD = LD + up * down * grow * fall * tr
            DD = DD + (down * fall) ** 2 * rr
        mean_sigma, mean_G, mean_W = self.parts[1]
        ma, mb, mc, md = self.block(mean_sigma, updates)
        gg, gw, ww = np.sum(mean_G**2), np.sum(mean_G * mean_W), np.sum(mean_W**2)
        if which != "W":
            DD = DD + ma * ma * gg + 2 * ma * mb * gw + mb * mb * ww
            DD = DD + (1 - self.s * self.eta * self.decay) ** (2 * updates) * np.sum(self.within**2)
        if which != "H":
            DD = DD + mc * mc * gg + 2 * mc * md * gw + md * md * ww
        size, both = LL**0.5, (LL + 2 * LD + DD) ** 0.5
        longer = (2 * LD + DD) / (both + size)
        return np.sqrt(np.maximum(DD - 2 * LD * longer / size + longer**2, 0)) / both


def sphere(q, etas, updates):
    """Figure 9: (error, |H|) after 1 .. `updates` updates for each rate; gamma = 0, rates times |h|^q."""
    H, W = features(), np.tile(prototypes("centred"), (N, 1))
    pull = np.linalg.norm(W, axis=1) / (C * N)
    length = np.linalg.norm(H, axis=1) * np.ones((len(etas), 1))
    cosine = np.sum(H * W, axis=1) / (np.linalg.norm(H, axis=1) * np.linalg.norm(W, axis=1))
    angle = np.arccos(cosine) * np.ones((len(etas), 1))
    push, found = np.array(etas)[:, None] * pull, []
    for _ in range(updates):
        turn = push * length ** (q - 2) * np.sin(angle)
        angle, length = angle - np.arctan(turn), length * np.sqrt(1 + turn**2)
        found.append((np.sqrt(np.sum(4 * np.sin(angle / 2) ** 2, axis=1)), np.sqrt(np.sum(length**2, axis=1))))
    return np.array(found)


def anchored(decay, updates, eta=0.1):
    """Figure 15: (distance of H from the direction of WM, |H|) after so many updates; gamma = 0."""
    H, pull = features(), np.tile(prototypes("anchors"), (N, 1)) / (C * N)
    keep = (1 - eta * decay) ** np.asarray(updates, float)
    weight = (1 - keep) / decay if decay else eta * np.asarray(updates, float)
    size = np.linalg.norm(pull)
    along = np.sum(H * pull) / size
    across = np.sqrt(np.sum((H - along * pull / size) ** 2))
    x, y = keep * along + weight * size, keep * across
    return 2 * np.sin(np.arctan2(y, x) / 2), np.hypot(x, y)
