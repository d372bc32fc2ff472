"""Every comparison, `and`, `or`, `not` and number of a module, wrong one at a time.

    python -m tests.mutate jax_roipool.arguments tests/ops/test_errors.py

Runs the tests with each in this process and prints those that no test notices.
"""

import ast
import contextlib
import copy
import importlib
import inspect
import io
import sys

import pytest

SWAPPED = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.And: ast.Or,
    ast.Or: ast.And,
}


def wrong(node):
    """The ways to get this node wrong, each as a function that changes it."""
    ways = []
    if isinstance(node, ast.Compare):
        for i, operator in enumerate(node.ops):
            if type(operator) in SWAPPED:

                def swap(node, i=i):
                    node.ops[i] = SWAPPED[type(node.ops[i])]()

                ways.append(swap)
    elif isinstance(node, ast.BoolOp):
        ways.append(lambda node: setattr(node, "op", SWAPPED[type(node.op)]()))
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        ways.append(_without_not)
    elif isinstance(node, ast.Constant) and type(node.value) is int:
        ways.append(lambda node: setattr(node, "value", node.value + 1))
    return ways


def _without_not(node):
    node.operand = ast.UnaryOp(ast.Not(), node.operand)


def mutants(source):
    """The trees of a source with one thing wrong, and what it is."""
    tree = ast.parse(source)
    nodes = list(ast.walk(tree))
    for i, node in enumerate(nodes):
        for way in range(len(wrong(node))):
            changed = copy.deepcopy(tree)
            victim = list(ast.walk(changed))[i]
            before = ast.unparse(victim)
            wrong(victim)[way](victim)
            ast.fix_missing_locations(changed)
            line = source.splitlines()[node.lineno - 1].strip()
            yield changed, f"{before} -> {ast.unparse(victim)} in: {line}"


def survivors(name, tests):
    """The mutants of a module that the tests pass, and how many there were."""
    module = importlib.import_module(name)
    right, count, alive = dict(vars(module)), 0, []
    for tree, what in mutants(inspect.getsource(module)):
        count += 1
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                exec(compile(tree, module.__file__, "exec"), vars(module))
                code = pytest.main(["-x", "-q", "-p", "no:cacheprovider", *tests])
        except Exception:  # it does not even run
            code = 1
        finally:
            vars(module).update(right)
        print("." if code else "S", end="", flush=True)
        if code == 0:
            alive.append(what)
    print()
    return alive, count


def main(arguments):
    """Prints how many are noticed; 1 where some are not."""
    alive, count = survivors(arguments[0], arguments[1:])
    print(f"{count - len(alive)} of {count} noticed", *alive, sep="\n  survives: ")
    return int(bool(alive))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
