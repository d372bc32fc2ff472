#include "op.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>

namespace jax_roipool::native {

const std::vector<Op>& Ops() {
  static const std::vector<Op> ops = [] {
    std::vector<Op> sorted = Registered<Op>::All();
    std::sort(sorted.begin(), sorted.end(), [](const Op& a, const Op& b) {
      return std::string(a.name) < b.name;
    });
    return sorted;
  }();
  return ops;
}

const Op& OpNamed(const std::string& name) {
  for (const Op& op : Ops()) {
    if (name == op.name) return op;
  }
  std::fprintf(stderr, "there is no op %s\n", name.c_str());
  std::abort();
}

}  // namespace jax_roipool::native
