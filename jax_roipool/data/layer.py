"""`RoIDataLayer`: from a roidb to a stream of minibatches."""

import functools
import logging
from collections.abc import Mapping
from typing import Any, Self

import jax

from jax_roipool.arguments import check_int
from jax_roipool.data.config import LayerConfig
from jax_roipool.data.minibatch import (
    Minibatch,
    check_records,
    make_minibatch,
    minibatch_spec,
    nbytes,
)
from jax_roipool.data.plan import Epoch, EpochPlan
from jax_roipool.data.roidb import Roidb, reported
from jax_roipool.data.workers import Stream

logger = logging.getLogger("jax_roipool.data")

_STATE = ("epoch", "batch", "seed", "fingerprint")
_Item = tuple[Minibatch, list[str]]


class _Steps:
    """The stream as a sequence: item i is step i counted from epoch 0.

    Pure, so any process may make any item.
    """

    def __init__(
        self,
        roidb: Roidb,
        plan: EpochPlan,
        host: int,
        num_classes: int,
        config: LayerConfig,
        specs: Mapping[tuple[int, int], Minibatch],
    ) -> None:
        self._roidb, self._plan, self._host = roidb, plan, host
        self._num_classes, self._config, self._specs = num_classes, config, specs
        # Of the arrays of any item, with room for what says where they are.
        self.largest = max(map(nbytes, specs.values())) + 2**16
        self._latest: tuple[int, Epoch] | None = None

    def __getitem__(self, i: int) -> _Item:
        number, place = divmod(i, self._plan.steps_per_epoch)
        if self._latest is None or self._latest[0] != number:
            self._latest = number, self._plan.epoch(number, self._host)
        step = self._latest[1][place]
        rngs = [self._plan.image_rng(number, k) for k in step.image_index.tolist()]
        spec = self._specs[step.bucket]
        return make_minibatch(
            self._roidb, step, rngs, self._num_classes, self._config, spec
        )


class RoIDataLayer:
    """Minibatches of a roidb, without end unless `epochs` is given.

    py-faster-rcnn's `RoIDataLayer`: an iterator over `Minibatch`. Every image of
    every epoch is served exactly once, in the order of an `EpochPlan`; RoIs are
    sampled anew in every epoch. The stream is a function of the roidb, the
    configuration and the seed: the number of workers does not change it, and a state
    resumes it at any step. For one thread at a time.

    Args:
      roidb: The images. Flips, filters and proposals are the caller's:
        `roidb.with_flips()`.
      num_classes: With the background, K; at least that of the roidb.
      config: Defaults to `LayerConfig()`.
      seed: Of all chance; int from 0.
      workers: Processes that make minibatches; 0 makes them here when they are
        asked for. Processes are started by "spawn" at the first `next`: a script
        needs `if __name__ == "__main__":`.
      prefetch: About how many minibatches wait, shared among the workers; at most
        `2 * max(prefetch, workers) + 2 * workers + 4` are in memory.
      epochs: Number of epochs, counted from the first, or `None` to repeat forever.
      device: A `jax.Device` or a `jax.sharding.Sharding` to which minibatches are
        sent ahead of the step; a sharding divides the images, the first axis of all
        arrays, and over several processes makes global arrays. `None` leaves NumPy
        arrays.
      host: Which share of every step is served here: `jax.process_index()`.
      hosts: Of how many: `jax.process_count()`. A step has `hosts * N` images.

    Attributes:
      config: The configuration.
      num_classes: K.
      roidb: The images.
      report: What was left out: the roidb's own report, and images that could not
        be read (`bad_images="skip"`), each time they were.

    Raises:
      TypeError, ValueError: An argument is not as described, the roidb has no
        images or no proposals (without `has_rpn`), or the sharding cannot divide a
        batch.
      ImageError: From `next`: an image cannot be read; it names the file. The stream
        stays where it is.
      WorkerError: From `next`: a worker process ended. The stream stays where it
        is, and the next `next` starts other workers.

    Example:
      >>> import cv2, numpy as np
      >>> from jax_roipool.data import LayerConfig, Record, Roidb, RoIDataLayer
      >>> _, png = cv2.imencode(".png", np.zeros((60, 80, 3), np.uint8))
      >>> records = [Record(str(i), png.tobytes(), 60, 80, [[0, 0, 7, 7]], [1])
      ...            for i in range(3)]
      >>> roidb = Roidb.from_records(records, ["cat"])
      >>> config = LayerConfig(has_rpn=True, shuffle=False)
      >>> with RoIDataLayer(roidb, 2, config, epochs=1) as layer:
      ...     for batch in layer:
      ...         print(batch.data.shape, batch.image_index, layer.state["batch"])
      (2, 608, 800, 3) [0 1] 1
      (2, 608, 800, 3) [ 2 -1] 0
    """

    def __init__(
        self,
        roidb: Roidb,
        num_classes: int,
        config: LayerConfig | None = None,
        *,
        seed: int = 0,
        workers: int = 0,
        prefetch: int = 2,
        epochs: int | None = None,
        device: jax.Device | jax.sharding.Sharding | None = None,
        host: int | None = None,
        hosts: int | None = None,
    ) -> None:
        self.config = LayerConfig() if config is None else config
        if not isinstance(self.config, LayerConfig):
            raise TypeError(f"config must be a LayerConfig, got {config!r}")
        self.num_classes = num_classes
        self._seed = check_int("seed", seed, 0)
        self._workers = check_int("workers", workers, 0)
        self._prefetch = check_int("prefetch", prefetch, 1)
        self._epochs = None if epochs is None else check_int("epochs", epochs, 0)
        if not isinstance(device, jax.Device | jax.sharding.Sharding | None):
            raise TypeError(
                f"device must be a jax.Device or a Sharding, got {device!r:.80}"
            )
        self._device = device
        self._hosts = (
            jax.process_count() if hosts is None else check_int("hosts", hosts, 1)
        )
        self._host = jax.process_index() if host is None else check_int("host", host, 0)
        if self._host >= self._hosts:
            raise ValueError(f"host must be below hosts, {self._hosts}, got {host}")
        self._stream: Stream[_Item] | None = None
        self.set_roidb(roidb)

    def set_roidb(self, roidb: Roidb) -> None:
        """Another roidb, from its first epoch on."""
        gt_boxes = check_records(roidb, self.num_classes, self.config)
        plan = self._plan_of(roidb, self._seed)
        self._check_sharding(plan, gt_boxes)
        self.close()
        self.roidb, self.report = roidb, roidb.report
        self._gt_boxes, self._served = gt_boxes, 0
        self._set_plan(plan)

    def _check_sharding(self, plan: EpochPlan, gt_boxes: int) -> None:
        """Raises ValueError where the sharding cannot divide minibatches."""
        if not isinstance(self._device, jax.sharding.Sharding):
            return
        n = self.config.batch_size
        if not self._device.is_fully_addressable:
            n *= self._hosts
        for bucket in plan.buckets:
            spec = minibatch_spec(self.config, self.num_classes, bucket, gt_boxes, n)
            for name, leaf in spec._asdict().items():
                try:
                    if leaf is not None:
                        self._device.shard_shape(leaf.shape)
                except (IndexError, ValueError) as error:  # the former: too many axes
                    raise ValueError(
                        f"device must be a sharding that divides the {n} images of a "
                        f"batch, got {self._device}: {name} of shape {leaf.shape}: "
                        f"{error}"
                    ) from None

    def _set_plan(self, plan: EpochPlan) -> None:
        self._plan = plan
        self._steps = _Steps(
            self.roidb,
            plan,
            self._host,
            self.num_classes,
            self.config,
            self._specs_of(self.config.batch_size),
        )

    def _plan_of(self, roidb: Roidb, seed: int) -> EpochPlan:
        return EpochPlan(
            roidb,
            self.config.images,
            batch_size=self.config.batch_size,
            hosts=self._hosts,
            seed=seed,
            shuffle=self.config.shuffle,
            aspect_grouping=self.config.aspect_grouping,
        )

    @property
    def steps_per_epoch(self) -> int:
        """Minibatches per epoch; the same on every host and in every epoch."""
        return self._plan.steps_per_epoch

    @property
    def spec(self) -> dict[tuple[int, int], Minibatch]:
        """What minibatches look like, before the first of them.

        For each bucket (height, width) of this roidb a `Minibatch` of
        `jax.ShapeDtypeStruct`: a jitted step compiles once for each. With a
        sharding over several processes they are the global arrays.
        """
        n = self.config.batch_size
        if isinstance(self._device, jax.sharding.Sharding):
            n *= self._hosts
        return self._specs_of(n)

    def _specs_of(self, images: int) -> dict[tuple[int, int], Minibatch]:
        return {
            bucket: minibatch_spec(
                self.config, self.num_classes, bucket, self._gt_boxes, images
            )
            for bucket in self._plan.buckets
        }

    @property
    def state(self) -> dict[str, Any]:
        """The position behind the last minibatch served; plain ints and a string.

        `epoch`, `batch` (within it), `seed` and `fingerprint`. JSON and Orbax keep
        it. It restores with any number of workers, on every host alike.
        """
        epoch, batch = divmod(self._served, self.steps_per_epoch)
        values = (epoch, batch, self._seed, self._plan.fingerprint)
        return dict(zip(_STATE, values, strict=True))

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Goes on from a `state`, with its seed.

        Raises:
          ValueError: It is no state, or was made with another roidb, batch size,
            number of hosts, grouping, shuffling, scales or buckets.
        """
        if not isinstance(state, Mapping) or set(state) != set(_STATE):
            raise ValueError(f"state must have the keys {_STATE}, got {state!r}")
        epoch, batch, seed = (
            check_int(f"state[{k!r}]", state[k], 0) for k in _STATE[:3]
        )
        plan = self._plan if seed == self._seed else self._plan_of(self.roidb, seed)
        if state["fingerprint"] != plan.fingerprint:
            raise ValueError(
                "state was made with another roidb, batch size, number of hosts, "
                "grouping, shuffling, scales or buckets: its fingerprint is "
                f"{state['fingerprint']!r:.14}, here it is {plan.fingerprint!r:.14}"
            )
        if batch >= plan.steps_per_epoch:
            raise ValueError(
                f"state['batch'] must be below {plan.steps_per_epoch}, got {batch}"
            )
        self.close()
        self._set_plan(plan)
        self._seed, self._served = seed, epoch * plan.steps_per_epoch + batch

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Minibatch:
        end = None if self._epochs is None else self._epochs * self.steps_per_epoch
        if end is not None and self._served >= end:
            self.close()
            raise StopIteration
        try:
            batch, problems = self._next_item(end)
        except BaseException:
            # Whatever the stream has lost, another one begins behind what was
            # served.
            self.close()
            raise
        self._served += 1
        for problem in problems:
            logger.warning("image left out: %s", problem)
        self.report += reported("image that could not be read", problems)
        return batch

    def _next_item(self, end: int | None) -> _Item:
        if not self._workers:
            return _send(self._device, self._steps[self._served])
        if self._stream is None:
            self._stream = Stream(
                self._steps,
                self._served,
                end,
                workers=self._workers,
                ahead=self._prefetch,
                # Not a method: a layer that nobody has any more ends its workers.
                finish=functools.partial(_send, self._device),
                largest=self._steps.largest,
            )
        return next(self._stream)

    def close(self) -> None:
        """Ends the workers. The state stays; `next` starts others."""
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _send(device: Any, item: _Item) -> _Item:
    """A minibatch on its way to where it is wanted."""
    batch, problems = item
    if isinstance(device, jax.sharding.Sharding):
        batch = jax.tree.map(
            lambda leaf: jax.make_array_from_process_local_data(device, leaf), batch
        )
    elif device is not None:
        batch = jax.device_put(batch, device)
    return batch, problems
