"""The model: what moves, what decays, under which loss; and its gradient in the plain dense form."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from jax.typing import ArrayLike

from unhinged_jax import _check, _memory, _numbers
from unhinged_jax._values import Tabled
from unhinged_jax.kernel import Kernel, as_kernel
from unhinged_jax.labels import Labels
from unhinged_jax.labels.fields import check_fields
from unhinged_jax.losses import AdjustedMargin, Loss, as_loss
from unhinged_jax.model.checks import LARGEST_DIM, check_parts_of_logits, check_settings
from unhinged_jax.model.settings import STRUCTURE, Decays, Moves, check_changes, decays, split_rescale
from unhinged_jax.model.starts import Sizes, Wanted, drawn
from unhinged_jax.model.state import State, check_parts
from unhinged_jax.signal import Signal
from unhinged_jax.special import counted

Parts = tuple[jax.Array, jax.Array, jax.Array]  # with the shapes of H, W and b


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, repr=False)
class LayerPeeled(Tabled):
    """Minimise sum_i q_i loss(W h_i + b, y_i) + (decay_H/2)||H||^2 + (decay_W/2)||W||^2 + (decay_b/2)||b||^2.

    Attributes:
        labels: Class layout, targets and weights.
        loss: A `Loss`.
        decay_H, decay_W: Weight decay lambda_1 on H and lambda_2 on W, at least 0.
        kernel: None, or a `Kernel` Theta: Theta multiplies the feature gradients (but not the decay).
        dim: Feature dimension p.
        features_move, prototypes_move: Which parts move; prototypes and biases move together.
        bias: Whether a bias is trained.
        spherical: Whether the logits use normalised features, h/||h||.
        unit_prototypes: Whether they use normalised prototypes, w/||w||, too (spherical only, prototypes move).
        rescale: q in {0, 1, 2}; the loss gradient of sample i is multiplied by ||h_i||^q (spherical only).
        exponent: Any other real q in place of `rescale`, as data, so that it can be traced and differentiated.
        decay_b: Weight decay on b, at least 0; None (default): that of W.
        depth: L, the number of factors of the logits W_L ... W_2 H, at least 2 (default, with W = W_2). The factors
            between H and W are square, (p, p), and have the decay and the rate of W.
        activation: What is applied between the factors W_2, ..., W_L: "linear" (default), or "relu".

    Use a named constructor, `unconstrained`, `regularized`, `anchored`, `frozen`, `spherical` or `ntk_invariant`,
    unless you need an unusual combination.

    Source: Zhou et al. 2023, Eq. 2, 11, 17, 18, 22; combinations beyond the paper.

    Example:
        >>> from unhinged_jax.labels import balanced
        >>> from unhinged_jax.losses import Unhinged
        >>> model = LayerPeeled(balanced(classes=3, per_class=2), loss=Unhinged(0.5), decay_W=0.1, dim=4)
        >>> model.samples, model.classes, model.linear
        (6, 3, True)
    """

    labels: Labels
    loss: Loss
    decay_H: Any = 0.0
    decay_W: Any = 0.0
    kernel: Kernel | None = None
    dim: int = dataclasses.field(default=1, metadata={"static": True})
    features_move: bool = dataclasses.field(default=True, metadata={"static": True})
    prototypes_move: bool = dataclasses.field(default=True, metadata={"static": True})
    bias: bool = dataclasses.field(default=False, metadata={"static": True})
    spherical: bool = dataclasses.field(default=False, metadata={"static": True})
    rescale: int = dataclasses.field(default=0, metadata={"static": True})
    exponent: Any = None
    decay_b: Any = None
    depth: int = dataclasses.field(default=2, metadata={"static": True})
    activation: str = dataclasses.field(default="linear", metadata={"static": True})
    unit_prototypes: bool = dataclasses.field(default=False, metadata={"static": True})

    def __post_init__(self) -> None:
        _numbers.settle(self, ("decay_H", "decay_W", "decay_b", "exponent"), _numbers.number)
        if isinstance(self.loss, str) or (callable(self.loss) and not isinstance(self.loss, Loss)):
            object.__setattr__(self, "loss", as_loss(self.loss))

    def __repr__(self) -> str:
        decay = f"{self.decay_H}" if self.decay_H is self.decay_W else f"({self.decay_H}, {self.decay_W})"
        parts = [f"n={self.samples}, C={self.classes}, p={self.dim}, {self.loss!r}, decay={decay}"]
        said = {
            f"{self.samples - self.labels.training_samples} held out": self.labels.held_out is not None,
            "bias": self.bias,
            f"decay_b={self.decay_b}": self.decay_b is not None,
            "spherical": self.spherical,
            "unit prototypes": self.unit_prototypes,
            f"rescale={self.rescaling}": bool(self.rescale) or self.exponent is not None,
            "kernel": self.kernel is not None,
            "features frozen": not self.features_move,
            "prototypes anchored": not self.prototypes_move,
            f"depth={self.depth}": self.depth > 2,
            self.activation: self.activation != "linear",
        }
        return f"LayerPeeled({', '.join([*parts, *(name for name, holds in said.items() if holds)])})"

    @property
    def classes(self) -> int:
        """C."""
        return self.labels.classes

    @property
    def samples(self) -> int:
        """n."""
        return self.labels.samples

    @property
    def rescaling(self) -> Any:
        """The q of rescaled gradients, which is `exponent` if there is one, else `rescale`."""
        return self.rescale if self.exponent is None else self.exponent

    @property
    def linear(self) -> bool:
        """Whether the dynamics of H and W is linear, as under a linear loss of plain features at depth 2."""
        return self.loss.linear and not self.spherical and self.depth == 2

    @property
    def moves(self) -> Moves:
        """Which of H, W and b move."""
        return Moves(self.features_move, self.prototypes_move, self.prototypes_move and self.bias)

    @property
    def decays(self) -> Decays:
        """The decays of H, W and b, where b has that of W unless it has its own."""
        return Decays(self.decay_H, self.decay_W, self.decay_W if self.decay_b is None else self.decay_b)

    def signal(self) -> Signal:
        """The signal matrix M; raises `NotLinear` unless the loss is linear in the logits."""
        return self.loss.signal(self.labels)

    def replace(self, **changes: Any) -> LayerPeeled:
        """A copy with fields changed; also `decay` (one number, or a pair for H and W), `gamma` (of the loss) and
        `free_prototypes`.

        Values are read as by the constructors: a loss may be a name, a kernel an array, and one `decay` belongs to the
        parts that move (to the features alone if they are spherical).

        Raises:
            ValueError: for an unknown field, a setting out of range, or fields that contradict one another.

        Example:
            >>> from unhinged_jax.labels import balanced
            >>> from unhinged_jax.model import regularized
            >>> model = regularized(balanced(classes=3, per_class=2), dim=4, decay=0.1)
            >>> model.replace(decay=(0.2, 0.3)).decay_W
            0.3
        """
        if "free_prototypes" in changes:
            changes["prototypes_move"] = changes.pop("free_prototypes")
        for name in STRUCTURE:
            _check.flag(name, changes.get(name, getattr(self, name)))
        _check.kind("labels", changes.get("labels", self.labels), Labels)
        if "decay" in changes:
            after = {name: changes.get(name, getattr(self, name)) for name in STRUCTURE}
            changes["decay_H"], changes["decay_W"] = decays(changes.pop("decay"), **after)
        if "loss" in changes:
            changes["loss"] = as_loss(changes["loss"])
        _check.whole("dim", changes.get("dim", self.dim), 1, most=LARGEST_DIM)
        if changes.get("kernel") is not None:
            labels = changes.get("labels", self.labels)
            changes["kernel"] = as_kernel(changes["kernel"], labels.samples, changes.get("dim", self.dim))
        if "rescale" in changes:
            changes["rescale"], changes["exponent"] = split_rescale(changes["rescale"])
        check_changes(changes, self.loss, [field.name for field in dataclasses.fields(self)])
        return checked(dataclasses.replace(self, **changes))

    def init(
        self,
        key: jax.Array,
        *,
        features: str | ArrayLike = "normal",
        prototypes: str | ArrayLike | None = None,
        bias: ArrayLike | None = None,
        scale: float = 1.0,
        balanced: ArrayLike | None = None,
        group: str | None = None,
        spectrum: ArrayLike | None = None,
        spectral: npt.ArrayLike | None = None,
        precision: str | None = None,
    ) -> State:
        """An initial state.

        Args:
            key: JAX key; the same key gives the same state on every device.
            features, prototypes: "normal" (standard normal), "kaiming" (uniform, bound sqrt(6/p)), or an array of shape
                (n, p) or (C, p); prototypes also "etf" (a simplex equiangular tight frame, p >= C-1), "orthoplex" (p <
                C <= 2p) or "softmax_code" (any C, looked for), see `initial`. Default for prototypes: "etf" if they do
                not move and p >= C-1, otherwise "normal". What a file calls "paper",
                "paper_anchors" and "paper_anchors_centred" are the arrays of `initial.paper_features`,
                `initial.paper_prototypes` and `initial.paper_anchors`, for n = 1,000, C = 100 and p = 512.
            bias: Shape (C,); default zeros.
            scale: Factor on random features and prototypes.
            balanced: kappa, for a start with H^T H - W^T W = kappa I, from which squared error has a closed form. W is
                drawn, or given as `prototypes`, and H is its partner, random otherwise: needs n >= p, for kappa = 0
                n >= min(C, p). For kappa < 0 (needs C >= p), and for kappa = 0 with fewer samples, H is drawn or
                given, and W is its partner. A traced kappa must be above 0. Default None: not balanced.
            group: "cyclic", or "hadamard" for C = 2^m: W as by `initial.group_prototypes`, and H = W/sqrt(N) in every
                class of N samples. `simulate` reduces such a start to one equation per character.
            spectrum: The singular values of W for a group, (C,), first that of the mean; default drawn, without a mean.
            spectral: The singular values of all factors, one number or one per mode (see `initial.spectral_factors`),
                for a balanced start along the singular vectors of minus the gradient of the loss at logits of 0.
            precision: "float32" or "float64"; default: JAX's current default.

        Raises:
            ValueError: for an unknown name, an array of a wrong shape or with NaN, an ETF with p < C-1, no key, or a
                kappa for which there are too few samples or classes.
            MemoryError: for a state that the machine cannot hold, saying how much it would need.

        Source: Zhou et al. 2023, Appendices C and D.1; balanced as in Dominé et al. 2025.

        Example:
            >>> from unhinged_jax.labels import balanced
            >>> from unhinged_jax.model import unconstrained
            >>> model = unconstrained(balanced(classes=3, per_class=2), dim=4)
            >>> model.init(jax.random.key(0)).H.shape
            (6, 4)
        """
        if prototypes is None:
            framed = not self.prototypes_move and 1 < self.classes <= self.dim + 1
            prototypes = "etf" if framed and balanced is None and group is None else "normal"
        wanted = Wanted(features, prototypes, bias, scale, balanced, group, spectrum, spectral)
        sizes = Sizes(self.samples, self.classes, self.dim, self.depth)
        pull = jax.grad(lambda logits: -self.loss_of_logits(logits))
        state = drawn(key, self.labels, sizes, wanted, precision, pull)
        self.check_state(state)
        return _memory.read_all(state) if precision and _check.concrete(state) else state

    def check_state(self, state: State) -> None:
        """Raise ValueError unless this is a single state with this model's shapes and finite numbers."""
        _check.kind("state", state, State)
        check_fields(self.labels)
        check_parts(state, self.samples, self.classes, self.dim, self.depth)
        for name, unit in {"H": self.spherical, "W": self.unit_prototypes}.items():
            rows = getattr(state, name)
            if unit and _check.concrete(rows) and not np.all(np.any(_memory.read(rows) != 0, axis=1)):
                what = "spherical features" if name == "H" else "unit prototypes"
                raise ValueError(f"{what} cannot be normalised: a row of state.{name} is zero; start it elsewhere.")

    def logits(self, H: jax.Array, W: jax.Array, b: jax.Array, inner: jax.Array | None = None) -> jax.Array:
        """Logits S = H W^T + b of features (n, p), normalised first if spherical; shape (n, C).

        Features of a deep model go through its factors `inner`, those of its state, first.
        """
        check_parts_of_logits(self.depth, H, W, b, inner)
        for factor in () if inner is None else inner:
            H = H @ factor.T
            H = jax.nn.relu(H) if self.activation == "relu" else H
        return self._logits(H, W, b)

    def _logits(self, H: jax.Array, W: jax.Array, b: jax.Array) -> jax.Array:
        """The same of features as the prototypes see them."""
        H, W = (_unit(X) if unit else X for X, unit in ((H, self.spherical), (W, self.unit_prototypes)))
        return H @ W.T + b

    def data_loss(self, H: jax.Array, W: jax.Array, b: jax.Array) -> jax.Array:
        """The loss term sum_i q_i loss_i, without decay, computed densely for any loss: a scalar."""
        check_parts_of_logits(2, H, W, b, None)  # of a deep model H are its last features
        if isinstance(self.loss, AdjustedMargin):
            q, labels = jnp.asarray(self.labels.weights, H.dtype), self.labels
            targets = jnp.asarray(labels.index) if labels.kind == "hard" else labels.probabilities().astype(H.dtype)
            return jnp.sum(q * counted(q, self.loss.of_features(H, W, targets, b)))
        return self.loss_of_logits(self._logits(H, W, b))

    def loss_of_logits(self, logits: jax.Array) -> jax.Array:
        """The loss term sum_i q_i loss_i of logits (n, C), for a loss that depends on nothing else: a scalar."""
        q = jnp.asarray(self.labels.weights, logits.dtype)
        values = self.loss(counted(q[:, None], logits), self.labels.probabilities().astype(logits.dtype))
        _check.shape(f"what the loss {type(self.loss).__name__} returns", values, q.shape, "one value per sample")
        return jnp.sum(q * counted(q, values))

    def loss_of_columns(self, logits: jax.Array) -> jax.Array:
        """The same for logits with one sample per column, (C, n)."""
        q, held_out = jnp.asarray(self.labels.weights, logits.dtype), self.labels.held_out is not None
        targets = self.labels.probabilities().T.astype(logits.dtype)
        return jnp.sum(q * counted(q, self.loss.of_columns(counted(q, logits) if held_out else logits, targets)))

    def forces(self, H: jax.Array, W: jax.Array, b: jax.Array) -> Parts:
        """Minus the gradients of the loss term; that of a bias under a linear loss is 0 where only rounding is left."""
        of_H, of_W, of_b = jax.grad(lambda *parts: -self.data_loss(*parts), argnums=(0, 1, 2))(H, W, b)
        if self.loss.linear and self.moves.b:
            of_b = self.signal().column_sums(b.dtype)  # an optimiser may make a step of any gradient, however small
        return of_H, of_W, of_b

    def velocity(self, H: jax.Array, W: jax.Array, b: jax.Array, *, forces: Parts | None = None) -> Parts:
        """(H', W', b') of depth 2 at unit rates: minus the gradients, with kernel, rescaling, decay; 0 for what stays.

        Every faster form is tested against this plain one. `forces` are given where they are not those of all samples.

        Source: Zhou et al. 2023, Eq. 4, 12, 18 and footnote 15.
        """
        force_H, *others = self.forces(H, W, b) if forces is None else forces
        if self.rescale or self.exponent is not None:
            force_H = force_H * jnp.linalg.norm(H, axis=1, keepdims=True) ** self.rescaling
        if self.kernel is not None:
            force_H = self.kernel.apply(force_H)
        parts = zip((force_H, *others), self.decays, (H, W, b), strict=True)
        steps = (force - decay * part for force, decay, part in parts)
        H, W, b = (step if moves else jnp.zeros_like(step) for step, moves in zip(steps, self.moves, strict=True))
        return H, W, b


def checked(model: LayerPeeled) -> LayerPeeled:
    """The model; raise a ValueError that names a setting that is not allowed."""
    fields = {field.name: getattr(model, field.name) for field in dataclasses.fields(model)}
    check_settings(SimpleNamespace(**fields), model.moves.b)
    return model


def _unit(X: jax.Array) -> jax.Array:
    """The rows, each over its length."""
    return X / jnp.linalg.norm(X, axis=1, keepdims=True)
