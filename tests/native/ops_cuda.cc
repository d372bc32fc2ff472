// The CUDA kernels as C++ (tests/cuda_on_host), cut for several devices.

#include <cstdio>
#include <cstdlib>
#include <iterator>
#include <string>

#include "cuda/kernels.h"
#include "fibers.h"
#include "ops.h"

namespace jax_roipool::native {
namespace {

constexpr cuda::Device kDevices[] = {{16, 227 << 10, 228 << 10},
                                     {1, 40 << 10, 34 << 10},
                                     {6, 48 << 10, 64 << 10}};

struct Memory {
  Guarded map, boxes, image, cells, cotangent;  // read
  Guarded pooled, argmax, gradient, bounds;     // written
};

Memory& Mapped() {
  static auto* const memory = new Memory;
  return *memory;
}

class Run {
 public:
  Run(const Call& call, const cuda::Device& device)
      : call_(call), p_(call.problem), device_(device) {}

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
    cuda::PoolCall call{};
    call.problem = p_;
    call.scale = call_.scale;
    call.features = m_.map.data();
    call.boxes = m_.boxes.as<float>();
    call.image = m_.image.as<int32_t>();
    call.pooled = Result(&m_.pooled, call_.pooled.size());
    if (argmax) {
      call.argmax = static_cast<int32_t*>(
          m_.argmax.Place(call_.argmax.size() * 4, call_.flush));
    }
    Demand(op, cuda::Pool(call, device_, {}) == cuda::kSuccess);
    Demand(op, Same(op, p_.element, call.pooled, call_.pooled) &&
                   m_.pooled.AroundIsWhole());
    if (argmax) {
      Demand(op,
             Same(op, call.argmax, call_.argmax) && m_.argmax.AroundIsWhole());
    }
  }

  void Gather() {
    const cuda::GatherCall call{p_, m_.map.data(), m_.image.as<int32_t>(),
                                m_.cells.as<int32_t>(),
                                Result(&m_.pooled, call_.gathered.size())};
    Demand("gather", cuda::Gather(call, device_, {}) == cuda::kSuccess);
    Demand("gather", Same("gather", p_.element, call.pooled, call_.gathered) &&
                         m_.pooled.AroundIsWhole());
  }

  void Scatter() {
    const cuda::ScatterCall call{p_,
                                 m_.cotangent.data(),
                                 m_.image.as<int32_t>(),
                                 m_.cells.as<int32_t>(),
                                 Result(&m_.gradient, call_.gradient.size()),
                                 static_cast<int32_t*>(m_.bounds.Place(
                                     call_.image.size() * 8, call_.flush))};
    Demand("scatter", cuda::Scatter(call, device_, {}) == cuda::kSuccess);
    Demand("scatter", Same("scatter", p_.element, call.map, call_.gradient) &&
                          m_.gradient.AroundIsWhole() &&
                          m_.bounds.AroundIsWhole());
  }

  void* Result(Guarded* memory, size_t count) {
    return memory->Place(count * ElementBytes(p_.element), call_.flush);
  }

  void Demand(const char* op, bool right) const {
    if (right) return;
    std::fprintf(stderr, "CUDA, %d multiprocessors, %s: %s\n",
                 device_.multiprocessors, op, call_.Describe().c_str());
    std::abort();
  }

  const Call& call_;
  const Problem& p_;
  const cuda::Device& device_;
  Memory& m_ = Mapped();
};

}  // namespace

const bool kSumsInOrder = false;

int64_t RunOps(const Call& call) {
  Memory& m = Mapped();
  m.map.Place(call.map.data(), call.map.size(), call.flush);
  m.boxes.Place(call.boxes.data(), call.boxes.size() * 4, call.flush);
  m.image.Place(call.image.data(), call.image.size() * 4, call.flush);
  m.cells.Place(call.cells.data(), call.cells.size() * 4, call.flush);
  m.cotangent.Place(call.cotangent.data(), call.cotangent.size(), call.flush);
  // A turn of the device with the most shared memory, to which launches are
  // held; see cuda/device.h beside fibers.h.
  cuda_on_host::Seed(3 * call.seed);
  cuda::Device ignored;
  cuda::QueryDevice(&ignored);
  return Run(call, kDevices[call.threads % std::size(kDevices)]).All();
}

}  // namespace jax_roipool::native
