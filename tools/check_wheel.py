"""What a wheel, or a module of ours, contains and links: listed, and checked.

    check_wheel.py WHEEL-OR-MODULE...

A wheel holds our Python files, our modules and its metadata. A module links the
C and C++ runtimes and the loader and nothing else, names no directory to look in,
shows the loader its init function alone, and asks for no executable stack and no
relocations of code. Prints what is there; 1 where something else is.
"""

import fnmatch
import io
import pathlib
import sys
import zipfile

from elftools.elf.dynamic import DynamicSection
from elftools.elf.elffile import ELFFile

# What every Linux with a C++ program has; pip's manylinux tags count on them.
RUNTIMES = {
    "libc.so.6": "C",
    "libm.so.6": "C",
    "libpthread.so.0": "C",
    "libdl.so.2": "C",
    "librt.so.1": "C",
    "libgcc_s.so.1": "C++",
    "libstdc++.so.6": "C++",
    "ld-linux-x86-64.so.2": "loader",
    "ld-linux-aarch64.so.1": "loader",
}
CONTENTS = (
    "jax_roipool/*.py",
    "jax_roipool/data/*.py",
    "jax_roipool/py.typed",
    "jax_roipool/_cpu.*.so",
    "jax_roipool/_cuda.*.so",
    "jax_roipool-*.dist-info/METADATA",
    "jax_roipool-*.dist-info/WHEEL",
    "jax_roipool-*.dist-info/RECORD",
    "jax_roipool-*.dist-info/licenses/LICENSE",
    "jax_roipool-*.dist-info/sboms/auditwheel.cdx.json",
)


def faults_of_names(names):
    """What a wheel with these files should not have, and what it lacks."""
    faults = [
        f"{name} does not belong in the wheel"
        for name in names
        if not any(fnmatch.fnmatchcase(name, pattern) for pattern in CONTENTS)
    ]
    for needed in ("jax_roipool/__init__.py", "jax_roipool/_cpu.*.so", "*/LICENSE"):
        if not fnmatch.filter(names, needed):
            faults.append(f"{needed} is missing")
    return faults


def describe(data):
    """What an ELF module asks of the loader and shows to it."""
    elf = ELFFile(io.BytesIO(data))
    tags = {}
    for section in elf.iter_sections():
        if isinstance(section, DynamicSection):
            for tag in section.iter_tags():
                tags.setdefault(tag.entry.d_tag, []).append(tag)
    shown = [
        symbol.name
        for symbol in elf.get_section_by_name(".dynsym").iter_symbols()
        if symbol.entry.st_shndx != "SHN_UNDEF"
        and symbol.entry.st_info.bind != "STB_LOCAL"
    ]
    stack = [s for s in elf.iter_segments() if s.header.p_type == "PT_GNU_STACK"]
    return {
        "links": [tag.needed for tag in tags.get("DT_NEEDED", ())],
        "paths": [tag.rpath for tag in tags.get("DT_RPATH", ())]
        + [tag.runpath for tag in tags.get("DT_RUNPATH", ())],
        "shows": shown,
        "executable stack": not stack or bool(stack[0].header.p_flags & 1),
        "relocates code": "DT_TEXTREL" in tags,
    }


def faults_of_module(name, found):
    """What a module of that file name should not have."""
    init = f"PyInit_{pathlib.PurePath(name).name.split('.')[0]}"
    faults = [
        f"{name} links {library}, which is no runtime of C or C++"
        for library in found["links"]
        if library not in RUNTIMES
    ]
    faults += [f"{name} has the library path {path}" for path in found["paths"]]
    if found["shows"] != [init]:
        faults.append(f"{name} shows {found['shows']} to the loader, not {init} alone")
    for flaw in ("executable stack", "relocates code"):
        if found[flaw]:
            faults.append(f"{name}: {flaw}")
    return faults


def check_module(name, data):
    """Prints what a module links and shows; its faults."""
    found = describe(data)
    print(f"  {name}: {len(data)} bytes")
    print(f"    links {', '.join(found['links']) or 'nothing'}")
    print(f"    library paths {', '.join(found['paths']) or 'none'}")
    print(f"    shows {', '.join(found['shows']) or 'nothing'}")
    return faults_of_module(name, found)


def check(path):
    """Prints what a wheel or a module contains and links; its faults."""
    print(path)
    if path.suffix != ".whl":
        return check_module(path.name, path.read_bytes())
    with zipfile.ZipFile(path) as wheel:
        names = [name for name in wheel.namelist() if not name.endswith("/")]
        for name in names:
            print(f"  {name}")
        faults = faults_of_names(names)
        for name in fnmatch.filter(names, "*.so"):
            faults += check_module(name, wheel.read(name))
    return faults


def main(arguments):
    """Checks each; 1 and the faults where there are any."""
    faults = [f for argument in arguments for f in check(pathlib.Path(argument))]
    for fault in faults:
        print(f"check_wheel: {fault}", file=sys.stderr)
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
