"""Every test of values runs on every implementation that this machine has."""

# ruff: noqa: E402

import contextlib
import os
import tempfile

# The CPU counts as 8 devices, which meshes are made of; not where one has said another
# number. Read when jax starts, below, and not passed on to processes that tests start.
_FLAGS = os.environ.get("XLA_FLAGS", "")
_PLATFORMS = os.environ.get("JAX_PLATFORMS", "cpu")
if "device_count" not in _FLAGS and _PLATFORMS.startswith("cpu"):
    flag = "--xla_force_host_platform_device_count=8"
    os.environ["XLA_FLAGS"] = f"{_FLAGS} {flag}".strip()

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache

from jax_roipool import backends, partitioning
from tests import table
from tests.cuda import on_host

# Fixtures by which a test says what it is for; see `in_force`.
CHOICES = ("implementation", "kernel_implementation", "lowered_to", "kernels")


# Files with tests of a minute: first, so that no worker is left alone with one.
LONG = ("package/test_processes.py", "detector/test_sharding.py")


def pytest_configure(config):
    """Programs are compiled once a run: JAX keeps them in a folder of all workers.

    A change of instruction set drops programs, and tests that trace anew ask for equal
    ones. Processes that tests start compile their own.
    """
    if ON_GPU or jax.config.jax_compilation_cache_dir:
        return
    folder = getattr(config, "workerinput", {}).get("programs")
    if folder is None:
        temporary = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        config.add_cleanup(temporary.cleanup)
        folder = temporary.name
    config.programs = folder
    jax.config.update("jax_compilation_cache_dir", folder)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    config.add_cleanup(_keep_partitioned_programs_out())


def _keep_partitioned_programs_out():
    """What is kept is found by its text, where the rules of an op are an address.

    The next op may have its rules there, so a test over a mesh keeps nothing. Gives
    what undoes this check that it does.
    """
    partitioned = partitioning.partitioned

    def check(*args, **params):
        kept = jax.config.jax_enable_compilation_cache
        assert not kept, "a test over a mesh takes the fixture `devices`"
        return partitioned(*args, **params)

    partitioning.partitioned = check
    return lambda: setattr(partitioning, "partitioned", partitioned)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node):
    node.workerinput["programs"] = getattr(node.config, "programs", None)


def pytest_addoption(parser):
    parser.addoption(
        "--one-isa",
        action="store_true",
        help="of the kernels the best instruction set alone, beside plain JAX",
    )


def pytest_collection_modifyitems(config, items):
    """In the order of implementations, within a file; few of the slow ones in CI.

    An op without kernels runs on plain JAX alone.

    Tests that share compiled programs go to one worker of pytest-xdist: the
    instruction sets share them all, plain JAX and CUDA's as C++ with none.
    """
    wanted = {}
    left_out = set()
    for item in items:
        params = item.callspec.params if hasattr(item, "callspec") else {}
        file = wanted.setdefault(item.path, {"": []})
        chosen = next((params[name] for name in CHOICES if name in params), "")
        of_kernels = {chosen} - {"", backends.PLAIN} or "kernels" in item.fixturenames
        row = params.get("op")
        if of_kernels and isinstance(row, table.Row) and not row.kernels:
            left_out.add(item)
        file.setdefault(chosen, []).append(item)
        name = item.path.relative_to(config.rootpath / "tests").as_posix()
        if chosen in (backends.PLAIN, on_host.NAME):
            group = f"{name} {item.function.__name__} {chosen}"
            item.add_marker(pytest.mark.xdist_group(group))
        elif chosen:
            item.add_marker(pytest.mark.xdist_group(name))
        if _nightly(item, chosen, params):
            item.add_marker(pytest.mark.nightly)
    files = sorted(wanted, key=lambda path: not path.as_posix().endswith(LONG))
    items[:] = [item for f in files for some in wanted[f].values() for item in some]
    if config.getoption("--one-isa"):
        lesser = {*IMPLEMENTATIONS} - {BEST, backends.PLAIN}
        left_out |= {i for f in wanted for t in lesser for i in wanted[f].get(t, ())}
    if left_out:
        config.hook.pytest_deselected(items=[*left_out])
        items[:] = [item for item in items if item not in left_out]


def _nightly(item, chosen, params):
    """Whether a slow implementation meets these parameters nightly, not in CI.

    Plain JAX is slow to compile, CUDA's kernels as C++ are slow to run. Where bins
    lie depends on no dtype: in CI both meet the cases about that as float32, and
    those about the numbers in a map in every dtype. Plain JAX, which turns NCHW into
    NHWC first, meets it in CI with the latter alone, as float32; and of ops that have
    their kind in common with another, those alone. A test may say with
    `plain_jax_in_ci` which other parameters are for CI.
    """
    dtype = params.get("dtype", "float32") != "float32"
    layout = params.get("layout") == "NCHW"
    case = params.get("case")
    bins = case is not None and not case.about_numbers
    again = params.get("op", table.ROI_POOL) not in table.KINDS
    if chosen == on_host.NAME:
        return bins and (dtype or again)
    if chosen in KERNELS:
        return bins and again and chosen != BEST  # tests/native has them all
    if chosen != backends.PLAIN:
        return False
    for mark in item.iter_markers("plain_jax_in_ci"):
        if any(params[name] not in values for name, values in mark.kwargs.items()):
            return True
    if case is None:
        return layout
    return dtype or layout or again if bins else dtype and layout


# What programs call, on the platform that JAX takes, and how to make it so.
ON_GPU = jax.default_backend() == "gpu"
if ON_GPU:
    if backends.CUDA.problem:
        pytest.exit(f"no CUDA kernels to test: {backends.CUDA.problem}", 1)
    BACKEND = backends.CUDA
    IMPLEMENTATIONS = BACKEND.choices()
else:
    BACKEND = backends.CPU
    IMPLEMENTATIONS = (*BACKEND.choices(), on_host.NAME)
    if os.environ.get("JAX_PLATFORMS", "").startswith("cuda"):
        pytest.exit("JAX_PLATFORMS asks for a GPU, and jax finds none", 1)

os.environ["XLA_FLAGS"] = _FLAGS  # jax has started

KERNELS = tuple(x for x in BACKEND.choices() if x != backends.PLAIN)
BEST = BACKEND.choices()[0]
_in_force = BEST
_undo = contextlib.ExitStack()


@contextlib.contextmanager
def _chosen(choice):
    BACKEND.use(choice)
    yield
    BACKEND.use(BEST)


def _switch_to(choice):
    """Stays in force until a test wants another: each switch drops programs."""
    global _in_force
    if choice != _in_force:
        _undo.close()
        cuda = choice == on_host.NAME
        _undo.enter_context(on_host.use() if cuda else _chosen(choice))
        _in_force = choice


@pytest.fixture(params=table.KINDS, ids=str)
def op(request):
    """A row of the table of ops, one for each kind."""
    return request.param


@pytest.fixture(params=IMPLEMENTATIONS)
def implementation(request):
    """An instruction set of the kernels, "plain", or CUDA's as C++, in force."""
    return request.param


@pytest.fixture(params=KERNELS)
def kernel_implementation(request):
    """An instruction set of the kernels in force: for what only they know."""
    return request.param


@pytest.fixture(params=["kernels", "plain"])
def lowered_to(request):
    """Both lowerings, where instruction sets make no difference."""
    if request.param == "plain":
        return backends.PLAIN
    if BEST == backends.PLAIN:
        pytest.skip(BACKEND.problem)
    return BEST


@pytest.fixture
def kernels():
    """The kernels as a user gets them; skips where there are none."""
    if BEST == backends.PLAIN:
        pytest.skip(BACKEND.problem)
    return BEST


@pytest.fixture
def devices():
    """The number of devices that meshes are made of; skips where there are few."""
    if jax.device_count() < 8:
        pytest.skip("needs 8 devices; the CPU counts as as many")
    _keep_programs(False)
    yield 8
    _keep_programs(True)


def _keep_programs(choice):
    jax.config.update("jax_enable_compilation_cache", choice)
    compilation_cache.reset_cache()


@pytest.fixture(autouse=True)
def in_force(request):
    """What the test has asked for by one of `CHOICES`, else what a user gets."""
    names = [name for name in CHOICES if name in request.fixturenames]
    _switch_to(request.getfixturevalue(names[0]) if names else BEST)


@pytest.hookimpl(wrapper=True)
def pytest_runtestloop(session):
    result = yield
    _switch_to(BEST)
    return result


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


def wide(dtype: str):
    """The context in which arrays of `dtype` exist."""
    if dtype in ("float64", "int64", "uint64"):
        return jax.enable_x64(True)
    return contextlib.nullcontext()
