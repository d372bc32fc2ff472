# Sourced by .ci/run and make_wheels: the Pythons of this machine.

# "3.13", "3.13t" (free-threaded), or nothing
version_of() {
  "$1" -c 'import sys, sysconfig
print("%d.%d%s" % (*sys.version_info[:2],
      "t" if sysconfig.get_config_var("Py_GIL_DISABLED") else ""))' 2>/dev/null || true
}

# The interpreter of a version on this machine, on the path or pyenv's, or nothing
find_python() {
  local candidate
  for candidate in "python$1" python3 \
    "${PYENV_ROOT:-$HOME/.pyenv}"/versions/*/bin/python3; do
    if command -v "$candidate" >/dev/null && [ "$(version_of "$candidate")" = "$1" ]; then
      command -v "$candidate"
      return
    fi
  done
}
