// The CPU's ops as its handlers call them, without XLA: a plan, then every unit
// of it on the kernel, here in any order on one thread.

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "cpu/dispatch.h"
#include "cpu/kernels.h"
#include "cpu/plan.h"
#include "ops.h"

namespace jax_roipool::native {
namespace {

struct Memory {
  Guarded map, boxes, image, cells, cotangent;  // read
  Guarded order, map_of, rows, columns;         // read
  Guarded pooled, argmax, gradient;             // written
  Guarded scratch;
};

Memory& Mapped() {
  static auto* const memory = new Memory;
  return *memory;
}

class Run {
 public:
  Run(const Call& call, const cpu::KernelTable& table)
      : call_(call),
        p_(call.problem),
        table_(table),
        random_(call.seed),
        element_(static_cast<int>(call.problem.element)) {}

  int64_t All() {
    int64_t executions = 0;
    if (!call_.pooled.empty()) {
      for (const bool argmax : {false, true}) Pool(argmax);
      Gather();
      executions += 3;
    }
    if (!call_.gradient.empty()) {
      Scatter();
      executions += 1;
    }
    return executions;
  }

 private:
  void Pool(bool argmax) {
    const char* op = argmax ? "pool with argmax" : "pool";
    const cpu::Plan plan = cpu::PlanPool(p_, call_.scale, m_.boxes.as<float>(),
                                         m_.image.as<int32_t>(), argmax,
                                         table_.vector_bytes, call_.threads);
    cpu::Call call{};
    call.map = m_.map.data();
    call.pooled = Result(&m_.pooled, call_.pooled.size());
    if (argmax) {
      call.argmax_out = static_cast<int32_t*>(
          m_.argmax.Place(call_.argmax.size() * 4, call_.flush));
    }
    RunUnits(op, plan, call,
             argmax ? cpu::ScratchUse::kPoolArgmax : cpu::ScratchUse::kPool,
             table_.pool[element_]);
    Demand(op, Same(op, p_.element, call.pooled, call_.pooled) &&
                   m_.pooled.AroundIsWhole());
    if (argmax) {
      Demand(op, Same(op, call.argmax_out, call_.argmax) &&
                     m_.argmax.AroundIsWhole());
    }
  }

  void Gather() {
    const cpu::Plan plan =
        cpu::PlanGather(p_, m_.image.as<int32_t>(), call_.threads);
    cpu::Call call{};
    call.map = m_.map.data();
    call.argmax = m_.cells.as<int32_t>();
    call.pooled = Result(&m_.pooled, call_.gathered.size());
    RunUnits("gather", plan, call, cpu::ScratchUse::kNone,
             table_.gather[element_]);
    Demand("gather", Same("gather", p_.element, call.pooled, call_.gathered) &&
                         m_.pooled.AroundIsWhole());
  }

  void Scatter() {
    const cpu::Plan plan =
        cpu::PlanScatter(p_, m_.image.as<int32_t>(), call_.threads);
    cpu::Call call{};
    call.cotangent = m_.cotangent.data();
    call.argmax = m_.cells.as<int32_t>();
    call.gradient = Result(&m_.gradient, call_.gradient.size());
    RunUnits("scatter", plan, call, cpu::ScratchUse::kScatter,
             table_.scatter[element_]);
    Demand("scatter",
           Same("scatter", p_.element, call.gradient, call_.gradient) &&
               m_.gradient.AroundIsWhole());
  }

  void* Result(Guarded* memory, size_t count) {
    return memory->Place(count * ElementBytes(p_.element), call_.flush);
  }

  template <typename T>
  const T* Guard(Guarded* memory, const std::vector<T>& values) {
    memory->Place(values.data(), values.size() * sizeof(T), call_.flush);
    return memory->as<T>();
  }

  void RunUnits(const char* op, const cpu::Plan& plan, cpu::Call call,
                cpu::ScratchUse use, cpu::Kernel kernel) {
    call.problem = p_;
    call.order = Guard(&m_.order, plan.order);
    call.map_of = Guard(&m_.map_of, plan.map_of);
    call.rows = Guard(&m_.rows, plan.rows);
    call.columns = Guard(&m_.columns, plan.columns);
    std::vector<cpu::Unit> units = plan.units;
    for (size_t i = units.size(); i > 1; --i) {
      std::swap(units[i - 1], units[random_.Below(static_cast<uint32_t>(i))]);
    }
    const int64_t bytes = cpu::ScratchBytes(p_, plan, use);
    for (const cpu::Unit& unit : units) {
      // Whatever another unit has left there, or a fresh block holds.
      void* block = m_.scratch.Place(static_cast<size_t>(bytes), Flush::kEnd);
      kernel(call, unit,
             cpu::MakeScratch(p_, plan, use, bytes > 0 ? block : nullptr));
      Demand(op, m_.scratch.AroundIsWhole());
    }
  }

  void Demand(const char* op, bool right) const {
    if (right) return;
    std::fprintf(stderr, "%s, %s: %s\n", table_.name, op,
                 call_.Describe().c_str());
    std::abort();
  }

  const Call& call_;
  const Problem& p_;
  const cpu::KernelTable& table_;
  Random random_;
  const int element_;
  Memory& m_ = Mapped();
};

}  // namespace

const bool kSumsInOrder = true;

int64_t RunOps(const Call& call) {
  Memory& m = Mapped();
  m.map.Place(call.map.data(), call.map.size(), call.flush);
  m.boxes.Place(call.boxes.data(), call.boxes.size() * 4, call.flush);
  m.image.Place(call.image.data(), call.image.size() * 4, call.flush);
  m.cells.Place(call.cells.data(), call.cells.size() * 4, call.flush);
  m.cotangent.Place(call.cotangent.data(), call.cotangent.size(), call.flush);
  int64_t executions = 0;
  for (const cpu::KernelTable* table : cpu::SupportedTargets()) {
    executions += Run(call, *table).All();
  }
  if (!m.map.Holds(call.map.data()) ||
      !m.cotangent.Holds(call.cotangent.data()) ||
      !m.cells.Holds(call.cells.data())) {
    std::fprintf(stderr, "an operand was written to: %s\n",
                 call.Describe().c_str());
    std::abort();
  }
  return executions;
}

}  // namespace jax_roipool::native
