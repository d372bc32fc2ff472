"""One training step, as one compiled program per size of batch."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from examples.faster_rcnn import vgg16
from examples.faster_rcnn.config import ModelConfig, TrainConfig
from examples.faster_rcnn.losses import Metrics, loss
from examples.faster_rcnn.model import Detector
from jax_roipool.data import Minibatch


class TrainState(NamedTuple):
    """All that a step changes. The key of a step is made of seed and step."""

    params: Any
    optimizer: Any
    step: jax.Array


def learning_rate(config: TrainConfig) -> optax.Schedule:
    """The learning rate by the number of the step."""
    warmup = min(config.warmup, config.steps // 2)
    rest = max(config.steps - warmup, 1)
    if config.schedule == "cosine":
        then = optax.cosine_decay_schedule(config.learning_rate, rest)
    else:
        drop = max(config.steps * 5 // 7 - warmup, 1)
        then = optax.piecewise_constant_schedule(config.learning_rate, {drop: 0.1})
    rise = optax.linear_schedule(0.0, config.learning_rate, max(warmup, 1))
    return optax.join_schedules([rise, then], [warmup])


def optimizer(model: ModelConfig, config: TrainConfig) -> optax.GradientTransformation:
    """Of the parameters of a `Detector`; decay is for kernels only."""

    def kernels(params: Any) -> Any:
        return jax.tree.map(lambda x: x.ndim > 1, params)

    # As one long vector: a fifth of the programs to compile.
    first = optax.clip_by_global_norm(config.clip_norm)
    if config.optimizer == "adamw":
        first = optax.chain(first, optax.scale_by_adam())
    update = optax.chain(
        optax.flatten(first),
        optax.add_decayed_weights(config.weight_decay, mask=kernels),
    )
    if config.optimizer == "sgd":
        update = optax.chain(update, optax.trace(decay=0.9))
    update = optax.chain(update, optax.scale_by_learning_rate(learning_rate(config)))
    if not model.frozen_blocks:
        return update

    def label(path: tuple[Any, ...], _: Any) -> str:
        return "frozen" if vgg16.is_frozen(path, model.frozen_blocks) else "trained"

    def labels(params: Any) -> Any:
        return jax.tree.map_with_path(label, params)

    return optax.partition({"trained": update, "frozen": optax.set_to_zero()}, labels)


def data_mesh(devices: Any = None) -> Mesh:
    """All devices, or these, in a row: they share the images of a batch."""
    devices = jax.devices() if devices is None else devices
    return Mesh(devices, ("data",), axis_types=(AxisType.Auto,))


class Trainer:
    """The model's structure, its optimizer and the compiled steps.

    Attributes:
      shapes: The state as shapes alone.
      programs: The compiled step by the shape of `data`; each is compiled once,
        when its first batch comes or `compile` is called.
    """

    def __init__(
        self, config: ModelConfig, training: TrainConfig, mesh: Mesh | None = None
    ) -> None:
        self.config, self.training = config, training
        self.mesh = data_mesh() if mesh is None else mesh
        self.update = optimizer(config, training)
        self.graph = structure(config)
        self.programs: dict[tuple[int, ...], Any] = {}

        def random(key: jax.Array) -> Any:
            return nnx.to_pure_dict(nnx.state(Detector(config, nnx.Rngs(key))))

        def start(params: Any) -> TrainState:
            return TrainState(params, self.update.init(params), jnp.int32(0))

        self.replicated = NamedSharding(self.mesh, P())
        # It runs once: compiling it well would take longer than training steps.
        quick = {"xla_backend_optimization_level": 0}
        self._random = jax.jit(random, compiler_options=quick)
        self._start = jax.jit(start)
        self._is_finite = jax.jit(_is_finite, compiler_options=quick)
        shapes = jax.eval_shape(start, jax.eval_shape(random, jax.random.key(0)))
        self.shapes: TrainState = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=self.replicated),
            shapes,
        )

    def random(self) -> Any:
        """Random parameters, by the seed."""
        return self._random(jax.random.key(self.training.seed))

    def init(self, params: Any = None) -> TrainState:
        """The state before the first step, of these parameters or random ones."""
        params = self.random() if params is None else params
        return jax.device_put(self._start(params), self.replicated)

    def is_finite(self, state: TrainState) -> bool:
        """Whether no number of a state is NaN or infinite."""
        return bool(self._is_finite(state))

    def model(self, params: Any) -> Detector:
        """The detector with these parameters."""
        return merge(self.graph, params)

    def step(self, state: TrainState, batch: Minibatch) -> tuple[TrainState, Metrics]:
        """A step, to be compiled."""
        key = jax.random.fold_in(jax.random.key(self.training.seed), state.step)

        def of(params: Any) -> tuple[jax.Array, Metrics]:
            return loss(self.model(params), batch, key, self.config, self.training)

        gradients, metrics = jax.grad(of, has_aux=True)(state.params)
        updates, memory = self.update.update(gradients, state.optimizer, state.params)
        params = optax.apply_updates(state.params, updates)
        return TrainState(params, memory, state.step + 1), metrics

    def put(self, batch: Minibatch) -> Minibatch:
        """The batch on the devices, its images shared out among them."""
        return jax.device_put(batch, NamedSharding(self.mesh, P("data")))

    def compile(self, batch: Minibatch) -> Any:
        """The program for batches of this size; `batch` may be shapes alone."""
        shape = batch.data.shape
        if shape not in self.programs:
            jitted = jax.jit(self.step, donate_argnums=0)
            shared = NamedSharding(self.mesh, P("data"))
            batch = jax.tree.map(
                lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=shared), batch
            )
            self.programs[shape] = jitted.lower(self.shapes, batch).compile()
        return self.programs[shape]

    def __call__(
        self, state: TrainState, batch: Minibatch
    ) -> tuple[TrainState, Metrics]:
        """A step. The old state is used up."""
        return self.compile(batch)(state, self.put(batch))


def _is_finite(state: TrainState) -> jax.Array:
    return jnp.stack([jnp.isfinite(x).all() for x in jax.tree.leaves(state)]).all()


def structure(config: ModelConfig) -> Any:
    """The detector without its parameters."""
    return nnx.graphdef(nnx.eval_shape(lambda: Detector(config, nnx.Rngs(0))))


def merge(graph: Any, params: Any) -> Detector:
    """The detector of a structure and its parameters as plain dicts."""
    return nnx.merge(graph, nnx.State(params))
